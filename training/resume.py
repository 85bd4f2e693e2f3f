"""Resume: what a stage left behind, by the digest of what it was made from, in; what is still to be made out.

A shard carries its digest in its header. Any other results are files of one folder; what they were made from, and the
sha256 of each, lie beside them in `settings.json`, written last. A kill before that leaves no digest, and the work is
done again, as it is where a file was damaged; what carries the expected digest is not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.errors import DataError, FingerprintMismatchError
from training.job import Job
from training.progress import Progress
from training.rates import Rates
from training.runners import ShardPlan, ShardStage
from training.shards import folder, write_json

__all__ = ["Results", "ShardResults", "make_shards"]

STAMP = "settings.json"
NAMED = 10


@dataclass(frozen=True)
class Results:
    """Files of one folder that are made together."""

    stage: str
    folder: Path
    files: tuple[str, ...]
    made_from: str
    """Digest of everything that decides the files."""

    @property
    def finished(self) -> bool:
        """Whether the files are there, as they were made from this."""
        try:
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
            return stamp in (self._stamp(), {"digest": self.made_from})  # an older release named no files
        except (OSError, ValueError):
            return False

    def require(self) -> None:
        """Check that they are finished.

        Raises:
            DataError: They are not, or were made with other settings.
        """
        if not self.finished:
            raise _unfinished(self.stage)

    def make(self, work: Callable[[], object], progress: Progress) -> None:
        """Do the work that fills the folder, unless it is done; an old digest is removed first, and that is said."""
        if self.finished:
            return
        if (self.folder / STAMP).exists():
            progress.note(f"{self.stage}: settings or shards changed, or a file was damaged; made again")
            self.forget()
        work()
        write_json(self.folder / STAMP, self._stamp())

    def _stamp(self) -> dict[str, Any]:
        """What lies beside finished files.

        Raises:
            OSError: One of them is not there.
        """
        files = {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in self.files}
        return {"digest": self.made_from, "files": files}

    def forget(self) -> None:
        """Say of the folder that nothing in it is finished."""
        (self.folder / STAMP).unlink(missing_ok=True)


@dataclass(frozen=True)
class ShardResults:
    """All shards of a stage that makes shards."""

    stage: ShardStage
    job: Job

    @property
    def finished(self) -> bool:
        """Whether every shard is there and was made with these settings."""
        return all(plan.finished for _, _, plans in self.job.plans(self.stage) for plan in plans)

    def require(self) -> None:
        """Check that they are finished.

        Raises:
            DataError: They are not, or were made with other settings.
        """
        for split, label, plans in self.job.plans(self.stage):
            missing = sum(not plan.finished for plan in plans)
            if missing:
                raise _unfinished(
                    self.stage, f" {missing} of {len(plans)} shards of {split}/{label} are missing or stale;"
                )


def make_shards(job: Job, plans: list[ShardPlan]) -> tuple[int, int]:
    """Make the shards of one label that are missing or stale, and remove those that are no longer planned.

    Returns:
        Of what was made now: rows, and rows whose prediction changed.
    """
    missing = _missing(job, plans)
    if not missing:
        return 0, 0
    first, total, left = plans[0], sum(plan.rows for plan in plans), sum(plan.rows for plan in missing)
    rows, changed = 0, 0
    title = f"{first.stage} {first.split}/{first.label}"
    started = time.monotonic()
    with job.progress.task(title, total=total, done=total - left) as advance:
        for made in job.runner.run(missing):
            if made.skipped:
                named = ", ".join(made.skipped[:NAMED]) + (", …" if len(made.skipped) > NAMED else "")
                job.progress.note(f"{first.split}: left out {len(made.skipped)} unreadable images: {named}")
            rows += made.rows
            changed += made.changed
            advance(made.plan.rows)
    _ask_again(job, missing)
    Rates(job.work).record(f"{first.stage}/{first.label}", left, time.monotonic() - started)
    return rows, changed


def _ask_again(job: Job, made: list[ShardPlan]) -> None:
    """See that the model is the one that was asked, or forget what was just made.

    Raises:
        FingerprintMismatchError: It is another one now; nobody knows since when.
    """
    try:
        job.classifier.ask_again()
    except FingerprintMismatchError:
        for plan in made:
            plan.path.unlink(missing_ok=True)
        raise


def _missing(job: Job, plans: list[ShardPlan]) -> list[ShardPlan]:
    """What is not finished, after saying what changed."""
    if not plans:
        return []
    first = plans[0]
    directory = folder(job.work, first.stage, first.split, first.label)
    wanted = {plan.path for plan in plans}
    for path in directory.glob("*.safetensors"):
        if path not in wanted:
            path.unlink()
    missing = [plan for plan in plans if not plan.finished]
    settings = job.settings(first.stage, first.label)
    note = directory / STAMP
    stale = sum(plan.path.exists() for plan in missing)
    if stale:
        job.progress.note(
            f"{first.stage}/{first.split}/{first.label}: settings or images changed{_difference(note, settings)}; "
            f"{stale} shards are made again"
        )
    if missing or not note.exists():
        write_json(note, settings)
    return missing


def _unfinished(stage: str, why: str = "") -> DataError:
    return DataError(
        f"stage {stage!r} is not finished with these settings:{why} run `heatward train {stage}` with the same "
        "configuration"
    )


def _difference(note: Path, settings: dict[str, Any]) -> str:
    """` (seed: 0 → 1)`; nothing when the old settings are gone or equal."""
    try:
        old = _flat(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    new = _flat(json.loads(json.dumps(settings, default=str)))
    changed = [
        f"{key}: {old.get(key)!r} → {new.get(key)!r}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    return f" ({', '.join(changed)})" if changed else ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: each for name in value for key, each in _flat(value[name], f"{prefix}.{name}".lstrip(".")).items()}

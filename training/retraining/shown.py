"""Images that tell champion and challenger apart: what both flagged in; of every attack one gained and one lost out.

They are left as data, in `examples.safetensors`, each judged by the champion and by the challenger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from training.evaluation.examples import Example, examples, write_examples
from training.job import Job
from training.retraining.comparison import Flags
from training.retraining.measure import Contestant

__all__ = ["GAINED", "LOST", "write_shown"]

GAINED, LOST = "gained", "lost"


def write_shown(
    folder: Path, job: Job, contestants: tuple[Contestant, Contestant], flags: Mapping[str, Flags], rate: float
) -> None:
    """Write one image of every label that only the challenger flags, and one that only the champion does."""
    made = {label for label in flags if label in job.config.labels("test")}
    gained, lost = (
        {label: _first(flags[label], by_challenger=by_challenger) for label in flags if label in made}
        for by_challenger in (True, False)
    )
    groups = {GAINED: gained, LOST: lost}
    write_examples(folder, {name: _judged(job, contestants, chosen, rate) for name, chosen in groups.items()})


def _first(flags: Flags, *, by_challenger: bool) -> int | None:
    one, other = (flags.challenger, flags.champion) if by_challenger else (flags.champion, flags.challenger)
    found = flags.source[one & ~other]
    return int(found[0]) if len(found) else None


def _judged(
    job: Job, contestants: tuple[Contestant, Contestant], chosen: Mapping[str, int | None], rate: float
) -> list[Example]:
    """Each image twice: what the champion says, then what the challenger says."""
    judged = [
        [replace(each, title=f"{each.title} {contestant.name}") for each in shown]
        for contestant in contestants
        for shown in (examples(job.config, contestant.detector, chosen, rate=rate),)
    ]
    return [each for pair in zip(*judged, strict=True) for each in pair]

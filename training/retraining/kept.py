"""Recent traffic as one run sees it: records in, once; the same images out however often the run is killed.

work/retrain/traffic.safetensors    the files of images to measure on
work/retrain/lessons/<class>/       reported false alarms to learn from
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detector.bundle import Manifest
from detector.classifier import Classifier
from detector.errors import ImageError
from detector.images import decode
from training.config import TrainingConfig
from training.progress import Progress
from training.retraining.comparison import Group
from training.retraining.traffic import Recorded, read_traffic, write_lessons
from training.shards import digest, digest_of, read_shard, write_shard

__all__ = ["Kept", "forget_traffic", "keep_traffic"]

FILE, LESSONS = "traffic.safetensors", "lessons"
GROUPS: dict[str, Group] = {
    "traffic": "traffic",
    "reported false alarms": "traffic",
    "reported attacks": "reported attack",
}


@dataclass(frozen=True)
class Kept:
    """What is kept of the traffic."""

    path: Path | None = None
    lessons: Path | None = None

    @property
    def name(self) -> str:
        """Tells one traffic from another."""
        return (digest_of(self.path) if self.path else "") or ""

    def with_lessons(self, config: TrainingConfig) -> TrainingConfig:
        """The configuration that learns from them, too."""
        if self.lessons is None:
            return config
        sources = (*config.images.fit_sources, str(self.lessons))
        return config.model_copy(update={"images": config.images.model_copy(update={"fit_sources": sources})})

    def groups(self, classifier: Classifier, progress: Progress) -> Iterator[tuple[str, Group, Tensor]]:
        """Label, group and images uint8 (n, 3, H, W), as the classifier gets them, of what there is."""
        files = read_shard(self.path) if self.path else {}
        for label, group in GROUPS.items():
            images = []
            for name in sorted(name for name in files if name.partition("/")[0] == label):
                try:
                    pixels = decode(files[name].numpy().tobytes())
                    images.append((classifier.prepare(pixels) * 255).round().to(torch.uint8))
                except ImageError as error:
                    progress.note(f"{name}: left out: {error}")
            if images:
                yield label, group, torch.stack(images)


def forget_traffic(folder: Path) -> None:
    """Have the next `keep_traffic` read the records anew."""
    (folder / FILE).unlink(missing_ok=True)


def keep_traffic(folder: Path, records: Path | None, limit: int, champion: Manifest, progress: Progress) -> Kept:
    """Read the records, unless that was done since `forget_traffic`.

    Args:
        folder: Where it is kept.
        records: What a server recorded; None: there is nothing.
        limit: At most so many images of which nothing is known, the newest.
        champion: Knows the classes.
        progress: Told of what could not be used.

    Raises:
        HeatwardError: The records cannot be used.
    """
    if records is None:
        return Kept()
    path, lessons = folder / FILE, folder / LESSONS
    if digest_of(path) is None:
        traffic = read_traffic(records, limit, progress)
        write_lessons(lessons, traffic.lessons, champion.classifier.classes, progress)
        parts = (traffic.clean, traffic.held_out, traffic.attacks)
        made_from = digest([[each.identity for each in part] for part in parts])
        write_shard(path, _files(parts), made_from)
        progress.note(
            f"{records}: {len(traffic.clean)} images of traffic, {len(traffic.false_alarms)} reported false alarms "
            f"({len(traffic.lessons)} of them to learn from), {len(traffic.attacks)} reported attacks"
        )
    return Kept(path, lessons if lessons.is_dir() else None)


def _files(parts: Sequence[Sequence[Recorded]]) -> dict[str, Tensor]:
    return {
        f"{label}/{at:06d}": torch.frombuffer(bytearray(each.content), dtype=torch.uint8)
        for label, part in zip(GROUPS, parts, strict=True)
        for at, each in enumerate(part)
    }

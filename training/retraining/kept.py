"""Recent traffic as one run sees it: records in, once; the same images out however often the run is killed.

work/retrain/traffic.safetensors    files of images to measure on, and of reported attacks to learn from
work/retrain/lessons/<class>/       reported false alarms to learn from
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
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
from training.retraining.traffic import held_out, lessons, read_traffic, write_lessons
from training.shards import digest, digest_of, read_shard, write_shard

__all__ = ["NAMED", "Kept", "Lesson", "forget_traffic", "keep_traffic", "prepared"]

FILE, LESSONS = "traffic.safetensors", "lessons"
TRAFFIC, FALSE_ALARMS, ATTACKS, TO_LEARN = "traffic", "reported false alarms", "reported attacks", "to learn from"
BEFORE = "attacks reported before"
TOLD = "told"
"""JSON of what is known of each file."""
NAMED = 16
"""Characters of an image's digest: as many as tell images apart."""


@dataclass(frozen=True)
class Lesson:
    """A reported attack to learn from."""

    identity: str
    """Of the file, as many characters of its sha256 as a bundle's provenance keeps."""
    true_label: str
    """Class that somebody named; empty where nobody did."""
    content: bytes


@dataclass(frozen=True)
class Kept:
    """What is kept of the traffic."""

    path: Path | None = None
    lessons: Path | None = None

    @cached_property
    def _files(self) -> dict[str, Tensor]:
        return read_shard(self.path) if self.path else {}

    @cached_property
    def _told(self) -> dict[str, dict[str, str]]:
        told: dict[str, dict[str, str]] = json.loads(self._files[TOLD].numpy().tobytes()) if self.path else {}
        return told

    @property
    def reported(self) -> tuple[str, ...]:
        """Identities of all reported attacks, sorted."""
        return tuple(
            sorted(each["identity"] for name, each in self._told.items() if _label(name) in (ATTACKS, TO_LEARN))
        )

    @property
    def attacks(self) -> tuple[Lesson, ...]:
        """Reported attacks to learn from."""
        return tuple(
            Lesson(content=self._files[name].numpy().tobytes(), **each)
            for name, each in sorted(self._told.items())
            if _label(name) == TO_LEARN
        )

    def with_lessons(self, config: TrainingConfig) -> TrainingConfig:
        """The configuration that learns from false alarms, too."""
        if self.lessons is None:
            return config
        sources = (*config.images.fit_sources, str(self.lessons))
        return config.model_copy(update={"images": config.images.model_copy(update={"fit_sources": sources})})

    def groups(
        self, classifier: Classifier, known: Collection[str], progress: Progress
    ) -> Iterator[tuple[str, Group, Tensor]]:
        """Label, group and images uint8 (n, 3, H, W), as the classifier gets them, of what there is to measure on.

        Args:
            classifier: What the images are prepared for.
            known: Identities of reported attacks that the champion knows.
            progress: Told of what cannot be read.
        """
        found: dict[str, list[Tensor]] = {TRAFFIC: [], FALSE_ALARMS: [], ATTACKS: [], BEFORE: []}
        for name, each in sorted(self._told.items()):
            label = _label(name)
            if label != TO_LEARN:
                label = BEFORE if label == ATTACKS and each["identity"] in known else label
                if (image := prepared(self._files[name].numpy().tobytes(), classifier, name, progress)) is not None:
                    found[label].append(image)
        for label, images in found.items():
            if images:
                yield label, GROUPS[label], torch.stack(images)


GROUPS: dict[str, Group] = {
    TRAFFIC: "traffic",
    FALSE_ALARMS: "traffic",
    ATTACKS: "reported attack",
    BEFORE: "reported before",
}


def prepared(content: bytes, classifier: Classifier, name: str, progress: Progress) -> Tensor | None:
    """A file as the classifier gets it, uint8 (3, H, W); None, and a note, where it cannot be read."""
    try:
        return (classifier.prepare(decode(content)) * 255).round().to(torch.uint8)
    except ImageError as error:
        progress.note(f"{name}: left out: {error}")
        return None


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
    path, place = folder / FILE, folder / LESSONS
    if digest_of(path) is None:
        traffic = read_traffic(records, limit, progress)
        alarms, attacks = lessons(traffic.false_alarms), lessons(traffic.attacks)
        write_lessons(place, alarms, champion.classifier.classes, progress)
        parts = {
            TRAFFIC: traffic.clean,
            FALSE_ALARMS: held_out(traffic.false_alarms),
            ATTACKS: held_out(traffic.attacks),
            TO_LEARN: attacks,
        }
        files = {f"{label}/{at:06d}": each for label, part in parts.items() for at, each in enumerate(part)}
        told = {
            name: {"identity": each.identity[:NAMED], "true_label": each.true_label} for name, each in files.items()
        }
        tensors = {name: _bytes(each.content) for name, each in files.items()}
        write_shard(path, tensors | {TOLD: _bytes(json.dumps(told).encode())}, digest(told))
        progress.note(
            f"{records}: {len(traffic.clean)} images of traffic, {len(traffic.false_alarms)} reported false alarms "
            f"({len(alarms)} of them to learn from), {len(traffic.attacks)} reported attacks ({len(attacks)} of them "
            "to learn from)"
        )
    return Kept(path, place if place.is_dir() else None)


def _label(name: str) -> str:
    return name.partition("/")[0]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)

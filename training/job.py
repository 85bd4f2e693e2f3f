"""One training job, opened: the classifier, the splits, and the plan of every shard with the digest it must carry.

A digest chains: images → clean shard → attack shard → attribution shard. What did not change keeps its digest and is
not made again; what changed, and all that follows from it, is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector.classifier import Classifier, load_classifier
from detector.errors import ConfigError
from detector.evidence import CONSTANTS
from training.attacks import check_attack
from training.attacks.corruptions import STRENGTHS
from training.config import CLEAN, SPLITS, AttackSpec, Split, TrainingConfig
from training.data import SplitImages, open_splits
from training.progress import Progress
from training.shards import digest, digest_of, remove_temporary, shard_path

__all__ = ["Job", "ShardPlan", "device_of", "open_job"]

FORMAT = 1
"""Raise this when the meaning of shards changes: all are made again."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: sources `start:stop` of a split under one label."""

    stage: str
    split: Split
    label: str
    number: int
    start: int
    stop: int
    path: Path
    digest: str

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def finished(self) -> bool:
        """Whether the shard is there and is the one that is meant."""
        return digest_of(self.path) == self.digest


@dataclass(frozen=True)
class Job:
    """A configuration with its classifier and images at hand."""

    config: TrainingConfig
    classifier: Classifier
    splits: Mapping[Split, SplitImages]
    progress: Progress
    witness: Classifier | None = None

    @property
    def work(self) -> Path:
        return self.config.work

    @property
    def copies(self) -> dict[str, int]:
        """Split → images that are copies of another one in it."""
        return {split: images.copies for split, images in self.splits.items()}

    def plan(self, stage: str, split: Split, label: str) -> list[ShardPlan]:
        """The shards of one label of stage `attack` or `attribute`."""
        size = self.config.shard_size
        total = len(self.splits[split])
        if (limit := self.config.limit_of(label, split)) is not None:
            total = min(total, limit)
        plans = []
        for number, start in enumerate(range(0, total, size)):
            stop = min(start + size, total)
            made_from = self._attack_digest(split, label, start, stop)
            if stage == "attribute":
                seen = {
                    "evidence": self.config.evidence.model_dump(mode="json"),
                    "constants": CONSTANTS,
                    "batch": self.config.batch_size,
                }
                if self.witness is not None:
                    seen["witness"] = self.witness.fingerprint
                made_from = digest({"from": made_from, **seen})
            path = shard_path(self.work, stage, split, label, number)
            plans.append(ShardPlan(stage, split, label, number, start, stop, path, made_from))
        return plans

    def plans(self, stage: str) -> Iterator[tuple[Split, str, list[ShardPlan]]]:
        """All labels of all splits, clean images first in each."""
        for split in SPLITS:
            for label in self.config.labels(split):
                yield split, label, self.plan(stage, split, label)

    def attack(self, label: str) -> AttackSpec | None:
        """The attack of this label; None for clean images, noise twins and corruptions."""
        return next((attack for attack in self.config.attacks if attack.label == label), None)

    def digests(self, stage: str, split: Split) -> list[str]:
        """Digests of all shards of a split, in order."""
        return [plan.digest for label in self.config.labels(split) for plan in self.plan(stage, split, label)]

    def _attack_digest(self, split: Split, label: str, start: int, stop: int) -> str:
        clean_stop = min(start + self.config.shard_size, len(self.splits[split]))
        clean = digest(
            {
                "format": FORMAT,
                "classifier": self.classifier.fingerprint,
                "images": self.splits[split].digest(start, clean_stop),
                "skip_unreadable": self.config.images.skip_unreadable,
                "batch": self.config.batch_size,
            }
        )
        if label == CLEAN:
            return clean
        return digest({"from": clean, "rows": stop - start, "made": self._made(label), "seed": self.config.seed})

    def _made(self, label: str) -> Any:
        """What decides an attack's, twin's or corruption's pixels, apart from seed and images."""
        if label in self.config.corruptions.labels:
            kind, severity = self.config.corruptions.labels[label]
            return {"corruption": kind, "strength": STRENGTHS[kind][severity - 1]}
        attack = self.attack(label)
        if attack is None:
            return {"twin": self.config.twins.labels[label]}
        return {"attack": attack.name, "parameters": attack.parameters, "label": label}

    def settings(self, stage: str, label: str) -> dict[str, Any]:
        """The settings behind a label, for people to read."""
        settings: dict[str, Any] = {
            "classifier": self.classifier.fingerprint,
            "images": self.config.images.model_dump(mode="json"),
            "seed": self.config.seed,
            "shard_size": self.config.shard_size,
            "batch_size": self.config.batch_size,
        }
        if label != CLEAN:
            settings["made"] = self._made(label)
        if stage == "attribute":
            settings["evidence"] = self.config.evidence.model_dump(mode="json")
            settings["witness"] = self.witness.fingerprint if self.witness else None
        return settings


def open_job(config: TrainingConfig, progress: Progress) -> Job:
    """Open images and classifier and check every attack.

    Raises:
        ConfigError: An attack is wrong.
        DataError: The images cannot be used.
        ClassifierError: The classifier cannot be used.
    """
    torch.set_num_threads(config.thread_count)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # as where the detector serves: p-values are ranks among such scores
    for attack in config.attacks:
        check_attack(attack)
    device = device_of(config)
    try:
        config.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"work: folder {config.work} cannot be made: {error.strerror}") from error
    remove_temporary(config.work)
    splits, classes = open_splits(
        config.images, config.classifier.class_names(), config.seed, progress, config.work / "images.json"
    )
    classifier = load_classifier(config.classifier.spec(classes), device=device)
    witness = load_classifier(config.witness.spec(classes), device=device) if config.witness else None
    for attack in config.attacks:
        check_attack(attack, classifier)
    return Job(config, classifier, splits, progress, witness)


def device_of(config: TrainingConfig) -> torch.device:
    """`device`, with `auto` decided.

    Raises:
        ConfigError: There is no such device here.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=config.device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"device: {config.device!r} cannot be used ({said}); expected cpu, cuda, cuda:1 or auto"
        ) from error
    return torch.device(config.device)

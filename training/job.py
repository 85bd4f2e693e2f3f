"""One training job, opened: the classifier, the splits, and the plan of every shard with the digest it must carry.

A digest chains: images → clean shard → attack shard → attribution shard. What did not change keeps its digest and is
not made again; what changed, and all that follows from it, is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detector.bundle import Bundle
from detector.classifier import Classifier
from detector.errors import ConfigError
from detector.evidence import CONSTANTS, hidden_by
from training.attacks import check_attack, code_of
from training.attacks.corruptions import STRENGTHS
from training.attacks.through import foreseeing
from training.attacks.transfer import check_transfer, transfers
from training.config import CLEAN, SPLITS, Split, TrainingConfig
from training.data import SplitImages, open_splits
from training.data.collected import Collected, collect
from training.data.growth import Ledger
from training.data.sources import Item
from training.deliveries import AT, DeliverySpec
from training.distilled import read_witness
from training.progress import Progress
from training.runners import Runner, ShardPlan, ShardStage
from training.runners.cluster import RayRunner
from training.runners.local import LocalRunner
from training.runners.worker import Worker, device_of, prepare_torch
from training.served import known_by, open_classifiers
from training.shards import derived_seed, digest, remove_temporary, shard_path

__all__ = ["LEDGER", "Job", "open_job"]

LEDGER = "ledger.json"
FORMAT = 1
"""Raise this when the meaning of shards changes: all are made again."""


@dataclass(frozen=True)
class Job:
    """A configuration with its classifier and images at hand."""

    config: TrainingConfig
    classifier: Classifier
    splits: Mapping[Split, SplitImages]
    progress: Progress
    given_witness: Classifier | None = None
    collected: Mapping[str, Collected] = field(default_factory=dict)
    """Label of an attack of files → its images."""
    start: Bundle | None = None
    """The bundle whose networks the fit begins with; None: it begins anew."""
    start_epochs: int | None = None
    """Epochs of a fit that begins with `start`; None: those of the configuration."""
    _made: dict[str, Classifier] = field(default_factory=dict, repr=False, compare=False)
    """The witness that this job made, by its digest."""

    @property
    def work(self) -> Path:
        return self.config.work

    @property
    def distils(self) -> bool:
        """Whether this job makes its witness: none is given, and the classifier cannot be opened."""
        return self.given_witness is None and bool(hidden_by(self.classifier))

    @cached_property
    def witness_digest(self) -> str:
        """Of everything that decides the witness that this job makes."""
        return digest(
            {
                "classifier": known_by(self.classifier),
                "images": self.splits["fit"].digest(0, len(self.splits["fit"])),
                "settings": self.config.distillation.model_dump(mode="json"),
                "batch": self.config.batch_size,
                "seed": self.config.seed,
            }
        )

    @property
    def witness(self) -> Classifier | None:
        """As it is given, or as this job made it; None where there is none, or none yet."""
        if not self.distils:
            return self.given_witness
        if self.witness_digest not in self._made:
            settings = self.config.distillation
            made = read_witness(self.work, self.witness_digest, self.classifier, settings)
            if made is None:
                return None
            self._made[self.witness_digest] = made
        return self._made[self.witness_digest]

    @property
    def epochs(self) -> int:
        """Of each network's fit."""
        return (self.start_epochs if self.start is not None else None) or self.config.fit.epochs

    @property
    def copies(self) -> dict[str, int]:
        """Split → images that are copies of another one in it."""
        return {split: images.copies for split, images in self.splits.items()}

    @cached_property
    def worker(self) -> Worker:
        """Makes shards with the classifiers at hand."""
        sources = {name: source for split in self.splits.values() for name, source in split.sources.items()}
        for collected in self.collected.values():
            sources |= collected.sources
        return Worker(self.config, self.classifier, self.witness, sources)

    @cached_property
    def runner(self) -> Runner:
        """Has shards made.

        Raises:
            ConfigError: The engine is not installed.
        """
        return RayRunner(self.worker) if self.config.engine == "ray" else LocalRunner(self.worker)

    def plan(self, stage: ShardStage, split: Split, label: str) -> list[ShardPlan]:
        """The shards of one label of stage `attack` or `attribute`."""
        collected = self.collected.get(label)
        images, total = self._images(split, label), self._total(split, label)
        plans = []
        for number, start, end in images.shards(self.config.shard_size):
            stop = min(end, total)
            if start >= stop > 0:
                break
            made_from = self._attack_digest(split, label, start, stop, end)
            if stage == "attribute":
                made_from = self.looked_at(made_from)
            path = shard_path(self.work, stage, split, label, number)
            which = images.digest(start, end) if self.config.images.grows else number
            seed = derived_seed(self.config.seed, "attack", split, label, which)
            source: tuple[Item, ...] | Path
            originals = None
            if stage == "attribute":
                source = shard_path(self.work, "attack", split, label, number)
            elif collected:
                source = images.items[start:stop]
                originals = collected.originals_of(source)
            elif label != CLEAN:
                source = shard_path(self.work, "attack", split, self._made_from(label), number)
            else:
                source = images.items[start:stop]
            natives = images.items[start:stop] if stage == "attack" and self._from_photographs(label) else ()
            rows = stop - start
            plans.append(ShardPlan(stage, split, label, path, made_from, rows, seed, source, originals, natives))
        return plans

    def looked_at(self, made_from: str) -> str:
        """Digest of the evidence of a shard of images that has this digest."""
        seen = {
            "evidence": self.config.evidence.model_dump(mode="json"),
            "constants": CONSTANTS,
            "batch": self.config.batch_size,
        }
        if self._witnessed:
            seen["witness"] = self._witnessed
        if hidden_by(self.classifier):
            seen["black_box"] = True
        return digest({"from": made_from, **seen})

    def _images(self, split: Split, label: str) -> SplitImages:
        """The images that a label is about."""
        collected = self.collected.get(label.partition(AT)[0])
        return collected.splits[split] if collected else self.splits[split]

    def _total(self, split: Split, label: str) -> int:
        """How many images there are of a label."""
        count, limit = len(self._images(split, label)), self.config.limit_of(label, split)
        return count if limit is None else min(count, limit)

    def _made_from(self, label: str) -> str:
        """The label of the images that these are made from: what is delivered was made before."""
        return label.partition(AT)[0] if self.config.delivery(label) else CLEAN

    def _from_photographs(self, label: str) -> bool:
        """Whether they are made from photographs at their own size: by an attack, or clean ones on their way."""
        attack, way = self.config.attack(label), self.config.delivery(label)
        return attack is None and way.native if way else attack is not None and attack.native

    def plans(self, stage: ShardStage) -> Iterator[tuple[Split, str, list[ShardPlan]]]:
        """All labels of all splits, clean images first in each."""
        for split in SPLITS:
            for label in self.config.labels(split):
                yield split, label, self.plan(stage, split, label)

    def digests(self, stage: ShardStage, split: Split) -> list[str]:
        """Digests of all shards of a split, in order."""
        return [plan.digest for label in self.config.labels(split) for plan in self.plan(stage, split, label)]

    def _attack_digest(self, split: Split, label: str, start: int, stop: int, end: int) -> str:
        """Of the first `stop - start` images of the clean shard of images `start:end`."""
        if collected := self.collected.get(label):
            images = collected.splits[split]
            originals = [each and each.fingerprint for each in collected.originals_of(images.items[start:stop])]
            told = {"format": FORMAT, "classifier": known_by(self.classifier), "batch": self.config.batch_size}
            return digest({**told, "collected": images.digest(start, stop), "originals": originals})
        if (before := self._made_from(label)) != CLEAN:
            made = self._attack_digest(split, before, start, min(end, self._total(split, before)), end)
            return digest({"from": made, "rows": stop - start, "made": self._how(label), "seed": self.config.seed})
        clean = digest(
            {
                "format": FORMAT,
                "classifier": known_by(self.classifier),
                "images": self.splits[split].digest(start, end),
                "skip_unreadable": self.config.images.skip_unreadable,
                "batch": self.config.batch_size,
            }
        )
        if label == CLEAN:
            return clean
        return digest({"from": clean, "rows": stop - start, "made": self._how(label), "seed": self.config.seed})

    def _how(self, label: str) -> Any:
        """What decides an attack's, twin's or corruption's pixels, apart from seed and images."""
        if label in self.config.corruptions.labels:
            kind, severity = self.config.corruptions.labels[label]
            return {"corruption": kind, "strength": STRENGTHS[kind][severity - 1]}
        if (way := self.config.delivery(label)) is not None:
            return _way(way)
        attack = self.config.attack(label)
        if attack is None:
            return {"twin": self.config.twins.labels[label]}
        made: dict[str, Any] = {"attack": attack.name, "parameters": attack.parameters, "label": label}
        made |= {"code": code} if (code := code_of(attack)) else {}
        made |= {"through": _way(foreseen)} if (foreseen := self.config.way(attack.through)) else {}
        made |= {"native": True} if attack.native else {}
        return made | {"on": self._witnessed} if transfers(attack, self.classifier) else made

    @property
    def _witnessed(self) -> str:
        """The witness's fingerprint, or what stands for it until it is made; empty where there is none."""
        if self.witness is not None:
            return self.witness.fingerprint
        return "not made yet" if self.distils else ""

    def settings(self, stage: str, label: str) -> dict[str, Any]:
        """The settings behind a label, for people to read."""
        settings: dict[str, Any] = {
            "classifier": known_by(self.classifier),
            "images": self.config.images.model_dump(mode="json"),
            "seed": self.config.seed,
            "shard_size": self.config.shard_size,
            "batch_size": self.config.batch_size,
        }
        if label != CLEAN:
            settings["made"] = self._how(label)
        if stage == "attribute":
            settings["evidence"] = self.config.evidence.model_dump(mode="json")
            settings["witness"] = self.witness.fingerprint if self.witness else None
        return settings


def _way(way: DeliverySpec) -> dict[str, Any]:
    """What decides how images are delivered."""
    steps = {"delivery": [step.model_dump(mode="json", exclude_unset=True) for step in way.steps]}
    return {**steps, "native": True} if way.native else steps


def open_job(config: TrainingConfig, progress: Progress, *, look_only: bool = False) -> Job:
    """Open images and classifier and check every attack.

    Args:
        config: What to do.
        progress: Told of what is found.
        look_only: Write nothing into the work folder: for a forecast.

    Raises:
        ConfigError: An attack is wrong.
        DataError: The images cannot be used.
        ClassifierError: The classifier cannot be used.
    """
    prepare_torch(config)
    for attack in config.attacks:
        check_attack(attack)
    device_of(config)
    if not look_only:
        remove_temporary(config.work)
    ledger = Ledger.read(config.work / LEDGER) if config.images.grows else Ledger()
    classes = config.classifier.class_names()
    known = None if classes else config.classifier.known_class_names()
    splits, classes = open_splits(
        config.images,
        classes,
        config.seed,
        progress,
        config.work / "images.json",
        ledger=ledger,
        shard_size=config.shard_size,
        remember=not look_only,
        known=known,
    )
    if not look_only:
        ledger.store()
    collected = {
        attack.label: collect(
            attack, config.images, splits, classes, config.seed, progress, config.work / "images.json", not look_only
        )
        for attack in config.attacks
        if attack.folder is not None
    }
    classifier, witness = open_classifiers(config, classes, progress, remember=not look_only)
    job = Job(config, classifier, splits, progress, witness, collected)
    if config.fit.score.floor_weight and witness is None and not job.distils:
        raise ConfigError(
            f"fit.score.floor_weight = {config.fit.score.floor_weight:g} is a floor under the witness's answer, and "
            "there is no witness: name a second classifier of the same classes as [witness], or leave the floor out"
        )
    for attack in config.attacks:
        check_transfer(attack, classifier, witness, made_later=job.distils)
        target = witness if transfers(attack, classifier) else classifier
        check_attack(attack, foreseeing(target, config.foreseen(attack)) if target else None)
    if job.distils:
        progress.note(
            f"{hidden_by(classifier)}: black-box evidence, with a witness that this job trains on the answers"
        )
    if any(transfers(attack, classifier) for attack in config.attacks) and config.fit.score.novelty_weight < 1:
        progress.note(
            "attacks: those that need gradients are made on the witness and fool it, too, unlike the attack of someone "
            "who has the weights: set fit.score.novelty_weight = 1.0 if anyone may have them (docs/black-box.md)"
        )
    return job

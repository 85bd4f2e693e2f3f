"""What a training job is told: the tables and keys of its TOML file, as frozen pydantic models.

`training.load` reads them. Paths are relative to the folder the command runs in. Numbers such as epsilon may be
written as fractions: `"8/255"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from detector.cpus import available_cpus
from detector.errors import ConfigError
from detector.settings import EvidenceSettings
from detector.spec import ClassifierSource, ClassifierSpec, check_classes
from detector.text import plain
from training.images import SPLITS, ImagesConfig, Split, Splits
from training.parameters import read_parameter
from training.settings import (
    CorruptionSettings,
    DistillationSettings,
    EvaluateSettings,
    FitSettings,
    Name,
    RaySettings,
    Settings,
    TwinsConfig,
)

__all__ = [
    "CLEAN",
    "SPLITS",
    "STAGES",
    "AttackSpec",
    "ClassifierConfig",
    "ImagesConfig",
    "Split",
    "Splits",
    "Stage",
    "TrainingConfig",
]

CLEAN = "clean"
Stage = Literal["witness", "attack", "attribute", "fit", "calibrate", "evaluate", "bundle"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class ClassifierConfig(ClassifierSource):
    """The classifier to guard: as `ClassifierSpec`, but the class names may come from elsewhere."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of the logits. Default: `labels`, or else the class folders of the images, sorted."""
    labels: Path | None = None
    """A text file with one class name a line."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else check_classes(classes)

    def spec(self, classes: tuple[str, ...]) -> ClassifierSpec:
        """The spec with class names filled in from `classes` unless they are given here.

        Raises:
            ConfigError: The names are not at least two different ones.
        """
        try:
            return ClassifierSpec(
                **self.model_dump(exclude={"classes", "labels"}), classes=self.class_names() or check_classes(classes)
            )
        except ValueError as error:
            raise ConfigError(f"classifier: {error}") from error

    def class_names(self) -> tuple[str, ...] | None:
        """The class names given here or in the labels file.

        Raises:
            ConfigError: The labels file cannot be read, is empty or names a class twice.
        """
        if self.classes is not None or self.labels is None:
            return self.classes
        try:
            text = plain(self.labels.read_bytes()).decode()
            return check_classes(tuple(line.strip() for line in text.splitlines() if line.strip()))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"classifier.labels: {self.labels} cannot be used: {error}; expected one class name a line"
            ) from error


class AttackSpec(Settings):
    """One attack."""

    name: str
    """A torchattacks class, e.g. `PGD`, or `DeepFool` (ours, batched)."""
    label: Name
    """A unique name for this attack with these parameters, e.g. `pgd-8`."""
    family: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """What the heatmap network learns to tell apart: one-step, iterative, small-step, minimum-norm, score-based, …"""
    parameters: dict[str, JsonValue] = Field(default={})
    """Arguments of the attack. A number may be a fraction `"8/255"`, or a table that gives a number for each batch:
    `{ uniform = [2, 4] }`, `{ choice = [2, 3, 4] }` or a share of the attack's epsilon, `{ of_eps = 0.25 }`."""
    train: bool = True
    """False: an unseen attack, made for the test split only."""
    limit: int | dict[Literal["fit", "test", "tune"], int] | None = None
    """At most so many source images of each split."""

    @field_validator("parameters")
    @classmethod
    def _tables(cls, parameters: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        for name, table in parameters.items():
            if not isinstance(table, dict):  # what else there may be, the attack decides
                continue
            try:
                read_parameter(table)
            except ValueError as error:
                raise ValueError(f"attack {info.data.get('label')!r}: parameter {name!r}: {error}") from error
        return parameters

    @model_validator(mode="after")
    def _reserved(self) -> AttackSpec:
        if self.label == CLEAN or self.label.startswith("twin-"):
            raise ValueError(f"label {self.label!r} is reserved for images that are not attacked")
        if self.family == CLEAN:
            raise ValueError("family 'clean' is reserved for images that are not attacked")
        return self

    @property
    def splits(self) -> tuple[Split, ...]:
        """Where this attack is made."""
        return ("fit", "test", "tune") if self.train else ("test",)

    def limit_of(self, split: Split) -> int | None:
        """At most so many source images of this split; None = all."""
        if isinstance(self.limit, dict):
            return next((limit for name, limit in self.limit.items() if name == split), None)
        return self.limit


class TrainingConfig(BaseSettings):
    """Everything that decides a training job."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="HEATWARD_", env_nested_delimiter="__", env_ignore_empty=True
    )

    work: Path = Path("work/detector")
    """Folder for shards and results; a killed job goes on from here."""
    out: Path = Path("work/detector.heatward")
    """The bundle: a file if the name ends in `.heatward`, a folder otherwise; or a URL, `s3://bucket/my.heatward`."""
    seed: int = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of torch. Default: as many as this process may use, by its affinity and its container's quota."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, …; `auto` takes a GPU when there is one."""
    shard_size: int = Field(default=256, ge=1)
    """Source images a shard: what a kill can cost, and what is held in memory."""
    batch_size: int = Field(default=128, ge=1)
    """Images an attack or the classifier sees at once."""
    engine: Literal["local", "ray"] = "local"
    """Where shards are made: in this process, or by workers on a Ray cluster. They are the same."""
    ray: RaySettings = RaySettings()
    classifier: ClassifierConfig
    witness: ClassifierConfig | None = None
    """A second, differently trained classifier of the same classes whose heatmaps are compared with the first one's.
    Where the first one cannot be opened and none is given, the job trains one: see `distillation`."""
    distillation: DistillationSettings = DistillationSettings()
    allow_inaccurate: bool = False
    """True: go on with a classifier that is hardly better than chance on the images."""
    images: ImagesConfig
    attacks: tuple[AttackSpec, ...]
    twins: TwinsConfig = TwinsConfig()
    corruptions: CorruptionSettings = CorruptionSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    fit: FitSettings = FitSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        labels = [*(attack.label for attack in self.attacks), *self.corruptions.labels]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"attacks: label {sorted(twice)[0]!r} is used twice; labels must be unique")
        if not any(attack.train for attack in self.attacks):
            raise ValueError("attacks: no attack has train = true, so there is nothing to learn from")
        families = {attack.family for attack in self.attacks}
        for group, names in self.evaluate.leave_out.groups.items():
            if unknown := sorted(set(names) - families):
                raise ValueError(
                    f"evaluate.leave_out.groups.{group}: no attack is of family {unknown[0]!r} "
                    f"(known: {', '.join(sorted(families))})"
                )
        return self

    @property
    def thread_count(self) -> int:
        """CPU threads of torch."""
        return self.threads or available_cpus()

    def attacks_of(self, split: Split) -> tuple[AttackSpec, ...]:
        """The attacks made for a split, in the order they were written."""
        return tuple(attack for attack in self.attacks if split in attack.splits)

    def labels(self, split: Split) -> tuple[str, ...]:
        """Folder names of a split: clean, twins, attacks, and corruptions of test images.

        Read these, not what happens to lie in the folder.
        """
        if split == "calibrate":  # thresholds come from clean images alone
            return (CLEAN,)
        corruptions = self.corruptions.labels if split == "test" else ()
        return (CLEAN, *self.twins.labels, *(attack.label for attack in self.attacks_of(split)), *corruptions)

    def attack(self, label: str) -> AttackSpec | None:
        """The attack of this label; None for clean images, noise twins and corruptions."""
        return next((attack for attack in self.attacks if attack.label == label), None)

    def limit_of(self, label: str, split: Split) -> int | None:
        """At most so many source images of this label; None = all."""
        if label in self.corruptions.labels:
            return self.corruptions.limit
        attack = self.attack(label)
        return attack.limit_of(split) if attack else None

    def family_of(self, label: str) -> str:
        """The family of a label; clean images, noise twins and corruptions are `clean`."""
        attack = self.attack(label)
        return attack.family if attack else CLEAN

    @property
    def families(self) -> tuple[str, ...]:
        """`clean`, then the families of the training attacks in the order they were written."""
        return (CLEAN, *dict.fromkeys(attack.family for attack in self.attacks if attack.train))

"""What a training job is told: the tables and keys of its TOML file, as frozen pydantic models.

`training.load` reads them. Paths are relative to the folder the command runs in. Numbers such as epsilon may be
written as fractions: `"8/255"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from detector.cpus import available_cpus
from detector.errors import ConfigError
from detector.settings import EvidenceSettings, PatchSettings
from detector.spec import ClassifierSource, ClassifierSpec, check_classes
from detector.text import nearest, plain
from training.deliveries import AT, DeliverySpec, Step, check_deliveries
from training.images import SPLITS, ImagesConfig, Split, Splits
from training.parameters import read_parameter
from training.settings import (
    CalibrateSettings,
    CascadeConfig,
    CorruptionSettings,
    DistillationSettings,
    EvaluateSettings,
    FitSettings,
    Name,
    Place,
    RaySettings,
    Settings,
    TwinsConfig,
)

__all__ = [
    "CLEAN",
    "FILES",
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
Count = Annotated[int, Field(ge=1)]
FILES = "files"
"""Kind of an attack that is a folder of images which somebody attacked already."""
ORIGINALS = "originals"
Stage = Literal["witness", "attack", "attribute", "fit", "glance", "calibrate", "evaluate", "bundle"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class ClassifierConfig(ClassifierSource):
    """The classifier to guard; the names of its classes may come from a file."""

    labels: Path | None = None
    """A text file with one class name a line. Default: `classes`; or what the source knows, where every class folder of
    the images is among it; or else these folders, sorted."""

    def spec(self, classes: tuple[str, ...]) -> ClassifierSpec:
        """The spec: what the source knows filled in, and class names from `classes` unless they are given here.

        Raises:
            ConfigError: The names are not at least two different ones.
            ClassifierSpecError: The source cannot be opened, or lacks something that is not given.
        """
        from detector.classifier.sources import complete  # torch: only once there is something to compute

        try:
            names = self.class_names() or check_classes(classes)
        except ValueError as error:
            raise ConfigError(f"classifier: {error}") from error
        return complete(self, names)

    def known_class_names(self) -> tuple[str, ...] | None:
        """The class names that the source itself knows.

        Raises:
            ClassifierSpecError: The source cannot be opened.
        """
        from detector.classifier.sources import known_classes

        return known_classes(self)

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
    """A torchattacks class, e.g. `PGD`; `DeepFool` (ours, batched); `foolbox:NAME`; `art:NAME`; `module:function`; or
    `files:FOLDER`, images that somebody attacked already: docs/attacks.md."""
    label: Name
    """A unique name for this attack with these parameters, e.g. `pgd-8`."""
    family: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """What the heatmap network learns to tell apart: one-step, iterative, small-step, minimum-norm, score-based, …"""
    parameters: dict[str, JsonValue] = Field(default={})
    """Arguments of the attack; of files, `originals`. A number may be a fraction `"8/255"`, or a table that gives a
    number for each batch: `{ uniform = [2, 4] }`, `{ choice = [2, 3, 4] }` or a share of the attack's epsilon,
    `{ of_eps = 0.25 }`."""
    through: Name | None = None
    """Label of a delivery that the attacker foresees: what is attacked is the classifier behind it."""
    native: bool = False
    """True: changes photographs at their own size, before they are resized for the classifier; one at a time."""
    train: bool = True
    """False: an unseen attack, made for the test split only."""
    limit: Count | dict[Literal["fit", "test", "tune"], Count] | None = None
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

    @model_validator(mode="after")
    def _files(self) -> AttackSpec:
        if self.folder is None:
            return self
        if not self.folder:
            raise ValueError(f"attack {self.label!r}: expected {FILES}:FOLDER, got {self.name!r}")
        if unknown := sorted(self.parameters.keys() - {ORIGINALS}):
            raise ValueError(
                f"attack {self.label!r}: {FILES} have no parameter {unknown[0]!r}"
                f"{nearest(unknown[0], [ORIGINALS], cutoff=0.0)}"
            )
        if self.through is not None or self.native:
            raise ValueError(f"attack {self.label!r}: {FILES} are attacked already: leave through and native out")
        if not isinstance(self.parameters.get(ORIGINALS, ""), str):
            raise ValueError(
                f"attack {self.label!r}: {ORIGINALS}: expected a folder, such as parameters = {{ {ORIGINALS} = "
                f'"photographs" }}, got {self.parameters[ORIGINALS]!r}'
            )
        return self

    @property
    def folder(self) -> str | None:
        """Where images lie that somebody attacked already; None of an attack that is made."""
        kind, colon, place = self.name.partition(":")
        return place if colon and kind == FILES else None

    @property
    def originals(self) -> str | None:
        """Where the images lie that those of `folder` were made from, if anybody knows."""
        found = self.parameters.get(ORIGINALS) if self.folder is not None else None
        return found if isinstance(found, str) else None

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
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        env_prefix="HEATWARD_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    work: Place = Path("work/detector")
    """Folder for shards and results; a killed job goes on from here."""
    out: Place = Path("work/detector.heatward")
    """The bundle: a file if the name ends in `.heatward`, a folder otherwise; or a URL, `s3://bucket/my.heatward`."""
    sign_key: Place | None = None
    """File of the private key that signs the bundle. A job that replaces one takes only what this key signed."""
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
    deliveries: tuple[DeliverySpec, ...] = ()
    """Ways in which attacked and clean images reach the classifier."""
    corruptions: CorruptionSettings = CorruptionSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    fit: FitSettings = FitSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    cascade: CascadeConfig = CascadeConfig()
    patches: PatchSettings | None = None
    """Masks that the bundle can look for patches with, where a caller asks for it. Default: it cannot."""
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        labels = [*(attack.label for attack in self.attacks), *self.corruptions.labels]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"attacks: label {sorted(twice)[0]!r} is used twice; labels must be unique")
        if not any(attack.train for attack in self.attacks):
            raise ValueError("attacks: no attack has train = true, so there is nothing to learn from")
        check_deliveries(self.deliveries, {each.label: (each.through, each.native) for each in self.attacks})
        try:
            self.evidence.views.places(self.cascade.views)
        except ValueError as error:
            raise ValueError(f"cascade.views: {error}") from error
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
        """The attacks made for a split, delivered ones among them, in the order they were written."""
        return tuple(attack for attack in self.every_attack if split in attack.splits)

    @property
    def every_attack(self) -> tuple[AttackSpec, ...]:
        """The attacks, each followed by its deliveries, whose labels are `pgd-8@jpeg`."""
        return tuple(
            each
            for attack in self.attacks
            for each in (attack, *(_delivered(attack, way) for way in self.deliveries if _goes(attack, way)))
        )

    def unharmed(self, split: Split) -> tuple[str, ...]:
        """Labels of images that nobody attacked, apart from corruptions: clean ones, delivered or not, noise twins."""
        ways = [f"{CLEAN}{AT}{way.label}" for way in self.deliveries if way.train or split == "test"]
        return (CLEAN, *ways) if split == "calibrate" else (CLEAN, *self.twins.labels, *ways)

    def delivery(self, label: str) -> DeliverySpec | None:
        """How images of this label were delivered; None if they are as they were made."""
        return self.way(label.partition(AT)[2])

    def foreseen(self, attack: AttackSpec, *, native: bool = False) -> tuple[Step, ...]:
        """What an attack foresees on the way, at the photograph's own size or at the classifier's."""
        way = self.way(attack.through)
        return way.steps if way and way.native is native else ()

    def way(self, label: str | None) -> DeliverySpec | None:
        """The delivery of this label, if there is one."""
        return next((delivery for delivery in self.deliveries if delivery.label == label), None)

    def labels(self, split: Split) -> tuple[str, ...]:
        """Folder names of a split: clean, twins, attacks, and corruptions of test images.

        Read these, not what happens to lie in the folder.
        """
        if split == "calibrate":  # thresholds come from images that nobody attacked
            return self.unharmed(split)
        corruptions = self.corruptions.labels if split == "test" else ()
        return (*self.unharmed(split), *(attack.label for attack in self.attacks_of(split)), *corruptions)

    def attack(self, label: str) -> AttackSpec | None:
        """The attack of this label; None for clean images, noise twins and corruptions."""
        return next((attack for attack in self.every_attack if attack.label == label), None)

    def limit_of(self, label: str, split: Split) -> int | None:
        """At most so many source images of this label; None = all."""
        if label in self.corruptions.labels:
            return self.corruptions.limit
        attack, way = self.attack(label), self.delivery(label)
        return attack.limit_of(split) if attack else way.limit if way else None

    def family_of(self, label: str) -> str:
        """The family of a label; clean images, noise twins and corruptions are `clean`."""
        attack = self.attack(label)
        return attack.family if attack else CLEAN

    @property
    def families(self) -> tuple[str, ...]:
        """`clean`, then the families of the training attacks in the order they were written."""
        return (CLEAN, *dict.fromkeys(attack.family for attack in self.attacks if attack.train))


def _goes(attack: AttackSpec, way: DeliverySpec) -> bool:
    return (attack.native or not way.native) and (way.of is None or attack.label in way.of)


def _delivered(attack: AttackSpec, way: DeliverySpec) -> AttackSpec:
    """The attack as it arrives, with both limits."""
    label, train = f"{attack.label}{AT}{way.label}", attack.train and way.train
    limit: Any = attack.limit
    if way.limit is not None:
        splits: tuple[Literal["fit", "test", "tune"], ...] = ("fit", "test", "tune")
        limit = {
            split: min(each for each in (way.limit, attack.limit_of(split)) if each is not None) for split in splits
        }
    return attack.model_copy(update={"label": label, "train": train, "limit": limit})

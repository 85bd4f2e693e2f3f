"""What the stages of a job are told: one table of the configuration each, as frozen pydantic models without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from detector.settings import MOST_CLEARED, NetworkSettings

__all__ = [
    "CalibrateSettings",
    "CascadeConfig",
    "Corruption",
    "CorruptionSettings",
    "DistillationSettings",
    "EvaluateSettings",
    "FitSettings",
    "Fraction",
    "LeaveOutSettings",
    "Name",
    "Place",
    "RaySettings",
    "Settings",
    "TwinsConfig",
    "fraction",
]

Corruption = Literal["gaussian-noise", "gaussian-blur", "jpeg", "brightness", "contrast", "rotation"]
_FRACTION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:/\s*(\d+(?:\.\d*)?))?\s*")


def fraction(value: Any) -> Any:
    """`"8/255"` or `"0.03"` as a float; anything else as it is."""
    if isinstance(value, str) and (match := _FRACTION.fullmatch(value)):
        numerator, denominator = float(match[1]), float(match[2] or 1)
        if denominator == 0:
            raise ValueError(f"{value!r} divides by zero")
        return numerator / denominator
    return value


Fraction = Annotated[float, BeforeValidator(fraction)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


def _named(place: object) -> object:
    """An unset variable of a shell would otherwise name the folder that the command runs in."""
    if isinstance(place, str) and not place.strip():
        raise ValueError("expected a path; . for the folder that the command runs in")
    return place


Place = Annotated[Path, BeforeValidator(_named)]


class Settings(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorruptionSettings(Settings):
    """Which corruptions are made, for the test split only: nothing is fitted or calibrated on them."""

    kinds: tuple[Corruption, ...] = ()
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 2, 3, 4, 5)
    limit: int = Field(default=200, ge=1)
    """At most so many test images of each."""

    @property
    def labels(self) -> dict[str, tuple[Corruption, int]]:
        """`{"jpeg-3": ("jpeg", 3), …}`."""
        return {f"{kind}-{severity}": (kind, severity) for kind in self.kinds for severity in self.severities}


class FitSettings(NetworkSettings):
    """The network's size and how it is trained."""

    epochs: int = Field(default=25, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    clean_share: float = Field(default=0.4, gt=0, lt=1)
    """Weight of clean images and noise twins together."""
    origin_weight: float = Field(default=0.5, ge=0)
    """Weight of the origin loss beside the family loss."""
    buffer_shards: int = Field(default=64, ge=1)
    """Shards mixed in memory at once."""

    def network(self) -> NetworkSettings:
        """The part a bundle needs to build the network again."""
        return NetworkSettings(**self.model_dump(include=set(NetworkSettings.model_fields)))


class CalibrateSettings(Settings):
    """Which clean images an image is ranked among, and what is said of scores above all of theirs."""

    by: Literal["prediction"] | None = None
    """`prediction`: those of the same predicted class, so that each class is flagged at the rate. Default: all."""
    rate: float = Field(default=0.01, gt=0, lt=1)
    """The false-positive rate that every group must reach; classes with too few images for it share one."""
    tail: bool = False
    """True: estimate how rare a score is that is higher than all clean ones; no verdict depends on it."""

    @property
    def grouping(self) -> dict[str, Any]:
        """What decides p-values, as JSON; nothing where all images are one group."""
        return self.model_dump(mode="json", exclude={"tail"}) if self.by else {}


class CascadeConfig(Settings):
    """The first look of a cascade: docs/results/cascade.md."""

    clears: float = Field(default=0, ge=0, lt=1)
    """Share of clean images that a glance lets go. 0: every image is looked at in full."""
    views: tuple[str, ...] = ()
    """Views that the glance takes, by name, such as `flip`; each costs every image a forward pass."""
    ensemble: int | None = Field(default=None, ge=1)
    """Networks of the glance; None: as many as `fit.ensemble`. A bundle holds them beside the others."""

    @field_validator("clears")
    @classmethod
    def _some_go_on(cls, clears: float) -> float:
        if clears > MOST_CLEARED:
            raise ValueError(
                f"a glance that clears {clears:g} leaves too few clean images for the full look, among which the "
                f"thresholds of 1 % to 10 % must lie: clear at most {MOST_CLEARED:g}"
            )
        return clears


class DistillationSettings(Settings):
    """The witness that a job trains itself, of a classifier that cannot be opened; unused where [witness] is given."""

    copies: int = Field(default=8, ge=1)
    """Copies of each fit image, cropped and mirrored, that the classifier is asked about: a forward pass each."""
    epochs: int = Field(default=8, ge=1)
    """Over all copies; more of few images, which need some 300 steps."""
    batch_size: int = Field(default=128, ge=2)
    """At most; of few images a sixteenth of the copies."""
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    widths: tuple[int, int, int] = (32, 96, 96)
    """Channels of its three blocks."""
    side: int = Field(default=64, ge=16)
    """Shorter side of the images it sees, at most."""
    noise: Fraction = 16 / 255
    """Largest sigma of the Gaussian noise that it learns under."""


class RaySettings(Settings):
    """Where `engine = "ray"` has shards made."""

    address: str | None = None
    """`ray://HOST:10001`, `HOST:6379`, or `local` for a cluster in this machine that ends with the job. Default: what
    RAY_ADDRESS says, or else a cluster that runs on this machine, or else `local`."""
    workers: int | None = Field(default=None, ge=1)
    """Default: as many as the cluster has room for when the job begins."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs a worker. Default: one where the cluster has any, unless `device` is cpu."""


class TwinsConfig(Settings):
    """Noise twins: clean images plus random-sign noise. Not attacks, and must not be flagged."""

    sizes: tuple[Annotated[Fraction, Field(gt=0, le=1)], ...] = (2 / 255, 8 / 255)

    @field_validator("sizes")
    @classmethod
    def _distinct(cls, sizes: tuple[float, ...]) -> tuple[float, ...]:
        if len({_twin(size) for size in sizes}) < len(sizes):
            raise ValueError(f"every size must be another one to a thousandth of 1/255, got {sizes}")
        return sizes

    @property
    def labels(self) -> dict[str, float]:
        """`{"twin-2": 2/255, …}`."""
        return {_twin(size): size for size in self.sizes}


def _twin(size: float) -> str:
    return f"twin-{round(size * 255, 3):g}"


class LeaveOutSettings(Settings):
    """Refits without some attacks: `heatward evaluate --leave-out`."""

    groups: dict[Name, tuple[str, ...]] = {}
    """Families left out together, by a name for them. Default: each family alone."""
    ensemble: int = Field(default=1, ge=1)
    """Networks a refit."""
    epochs: int | None = Field(default=None, ge=1)
    """Default: those of `[fit]`."""
    matrix: bool = False
    """True: also fit on clean images and one attack at a time, and measure on every attack."""
    clean_only: bool = False
    """True: also fit on clean images and noise twins alone, and measure on every attack."""


class EvaluateSettings(Settings):
    """The evaluation."""

    resamples: int = Field(default=1000, ge=10)
    """Bootstrap resamples for the 95 % intervals."""
    leave_out: LeaveOutSettings = LeaveOutSettings()

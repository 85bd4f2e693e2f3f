"""Parts of an evaluation that are measured of some detectors only: which predictions can be relied on, alarms by class,
what a cascade lets go; and what all parts are made of. The whole: result.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from training.evaluation.metrics import Estimate

__all__ = [
    "AcceptedResult",
    "ByRate",
    "CascadeResult",
    "ClassAlarms",
    "Number",
    "ReliabilityResult",
    "Result",
    "RiskCoverage",
    "RiskCurve",
]


class Result(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def dump(self) -> dict[str, Any]:
        """As JSON: what is not a number becomes null."""
        return self.model_dump(mode="json", by_alias=True)


Number = Annotated[Estimate, PlainValidator(Estimate.read), PlainSerializer(Estimate.as_dict)]
ByRate = dict[float, Number]


class RiskCurve(Result):
    """How much of what is accepted is wrong, where more and more is accepted, the least risky first."""

    area: float
    coverage: tuple[float, ...]
    error: tuple[float, ...]


class RiskCoverage(Result):
    """The curves of one mixture of images: of the detector, of the softmax and of the margin."""

    mixture: str
    images: int
    wrong: float
    """Share of all predictions, each kind of images weighing alike."""
    curves: dict[str, RiskCurve]


class AcceptedResult(Result):
    """What is accepted of one kind of images by whoever bears a rate of wrong predictions."""

    kind: str
    rate: float
    images: int
    accepted: int
    accepted_wrong: int


class ReliabilityResult(Result):
    """Which predictions can be relied on."""

    smallest_rate: float
    curves: tuple[RiskCoverage, ...]
    accepted: tuple[AcceptedResult, ...]


class ClassAlarms(Result):
    """Alarms on clean images of one predicted class."""

    name: str = Field(alias="class")
    calibrated: int
    """Clean images that it is ranked among where each class has its own; 0 where they are too few for any rate."""
    together: ByRate
    """At thresholds of all clean calibration images."""
    apart: ByRate
    """At thresholds of those of the same predicted class; rates that each class reaches."""


class CascadeResult(Result):
    """What the first look of a cascade lets go, and what that saves."""

    clears: float
    """Share of clean images that was to be cleared."""
    went_on: dict[str, Number]
    """Label → share of its images that the full look saw; of attacks on rightly classified images."""
    glance: float | None
    """Forward-equivalents of a first look; None where the classifier's operations cannot be seen."""
    in_full: float | None
    """Of both looks."""
    on_clean: float | None
    """Mean on clean traffic."""

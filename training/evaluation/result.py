"""An evaluation as one typed value: what was counted in; evaluation.json, tables, plots, report and manifest out.

Nobody else knows the keys of evaluation.json: it is the dump of `EvaluationResult`, and is read back with validation.
Rates of false positives are the keys of `ByRate`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from detector.errors import DataError
from training.config import SPLITS
from training.evaluation.examples import FILE as EXAMPLES
from training.evaluation.parts import (
    AcceptedResult,
    ByRate,
    CascadeResult,
    ClassAlarms,
    Number,
    ReliabilityResult,
    Result,
    RiskCoverage,
    RiskCurve,
)
from training.fitting.glance import results as glance_results
from training.fitting.networks import results as fit_results
from training.job import Job
from training.resume import Results
from training.shards import digest, write_json

__all__ = [
    "HEATWARD",
    "IN_FULL",
    "AcceptedResult",
    "AttackResult",
    "ByRate",
    "CascadeResult",
    "ClassAlarms",
    "ClassErrors",
    "ClassifierResult",
    "Corruption",
    "CorruptionMean",
    "Corruptions",
    "Curve",
    "Detection",
    "DetectionWithCurve",
    "EvaluationResult",
    "MeanResult",
    "Number",
    "ReliabilityResult",
    "Result",
    "RiskCoverage",
    "RiskCurve",
    "Tops",
    "Traffic",
    "results",
]

SCHEMA_VERSION = 5
"""Of evaluation.json. Raise this when what is measured changes: finished evaluations are made again."""
FILE = "evaluation.json"
HEATWARD = "heatward"
"""Name of our own detector among the detectors."""
IN_FULL = "in full"
"""Of the same detector without its cascade: every image has the full look."""


class Tops(Result):
    """How often the label before the attack is the likeliest one, among the two or among the five likeliest."""

    top1: Number
    top2: Number
    top5: Number


class Curve(Result):
    """ROC."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]


class Detection(Result):
    """One detector against one attack, or the mean or worst of several."""

    auroc: Number
    tpr: ByRate
    """Share flagged, at thresholds of all clean calibration images."""
    tpr_on_correct: ByRate
    """Share flagged, at thresholds of the rightly classified ones alone."""
    recovery: dict[str, Tops]
    """Of `all` attacks, and of those `flagged at` a rate."""

    @property
    def recovered(self) -> Tops:
        """Recovery on all attacks."""
        return self.recovery["all"]

    def recovered_of_flagged(self, rate: float) -> Tops:
        """Recovery on the attacks flagged at a rate."""
        return self.recovery[f"flagged at {rate}"]


class DetectionWithCurve(Detection):
    """One detector against one attack."""

    roc: Curve


class AttackResult(Result):
    """One attack: how often it works, and what each detector makes of it."""

    label: str
    name: str
    family: str
    seen: bool
    """Whether it was trained on."""
    delivery: str = ""
    """How the images arrived; empty where they are as the attack made them."""
    parameters: dict[str, JsonValue]
    attempts: int
    success_rate: Number
    linf: Number
    l2: Number
    detectors: dict[str, DetectionWithCurve]
    auroc_of_each_network: tuple[float | None, ...]


class MeanResult(Result):
    """Mean or worst of several attacks."""

    label: Literal["mean", "worst"]
    seen: bool
    delivery: str = ""
    attacks: int
    detectors: dict[str, Detection]


class Corruption(Result):
    """Alarms on images of one kind and severity that are still rightly classified."""

    kind: str
    severity: int
    images: int
    flagged: ByRate


class CorruptionMean(Result):
    """The mean over severities of one kind, or of all."""

    kind: str
    light: ByRate = Field(alias="1-2")
    every: ByRate = Field(alias="1-5")


class Corruptions(Result):
    """Every corruption, and means."""

    cells: tuple[Corruption, ...]
    means: tuple[CorruptionMean, ...]


class Traffic(Result):
    """Accuracy on mixed traffic: of the predictions, and where what is flagged gets another label."""

    uncorrected: Number
    corrected: ByRate
    recovered: ByRate


class ClassErrors(Result):
    """Counts of one class."""

    name: str = Field(alias="class")
    clean: int
    false_positives: int
    attacks: int
    misses: int
    wrong_recoveries: int


class ClassifierResult(Result):
    """The classifier that is guarded."""

    source: str
    fingerprint: str
    classes: int
    accuracy: Number


class EvaluationResult(Result):
    """Everything that was measured of a detector, and of those it is compared with."""

    format: Literal["heatward-evaluation"] = "heatward-evaluation"
    schema_version: int = SCHEMA_VERSION
    heatward_version: str
    classifier: ClassifierResult
    images: dict[Literal["calibrate", "test"], int]
    copies: dict[str, int]
    rates: tuple[float, ...]
    resamples: int
    detectors: dict[str, str]
    """Name → title, ours first."""
    thresholds: dict[str, dict[float, float | None]]
    """Detector → rate → score; None where so few calibration images cannot promise the rate."""
    thresholds_on_correct: dict[str, dict[float, float | None]]
    attacks: tuple[AttackResult, ...]
    macro: tuple[MeanResult, ...]
    false_positives: dict[str, dict[str, ByRate]]
    """Detector → group of images that nobody attacked → alarms."""
    corruptions: Corruptions
    traffic: dict[str, Traffic]
    mead: dict[str, ByRate]
    classes: tuple[ClassErrors, ...]
    reliability: ReliabilityResult | None = None
    """None where the detector promises nothing of predictions."""
    predicted: tuple[ClassAlarms, ...] = ()
    cascade: CascadeResult | None = None
    """None where every image is looked at in full."""

    @property
    def rows(self) -> tuple[AttackResult | MeanResult, ...]:
        """Every attack, then the means."""
        return (*self.attacks, *self.macro)

    def write(self, folder: Path) -> None:
        """Write evaluation.json."""
        write_json(folder / FILE, self.dump())

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """Read evaluation.json.

        Raises:
            DataError: There is none, or another heatward wrote it.
        """
        path, again = folder / FILE, "run `heatward train evaluate` again"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as an evaluation ({error}); {again}") from error
        version = found.get("schema_version") if isinstance(found, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path}: expected an evaluation of schema version {SCHEMA_VERSION}, got version {version}; {again}"
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}: not an evaluation: {place}: {first['msg']}; {again}") from error

    def measured(self) -> dict[str, Any]:
        """What a bundle says about itself: the detector's own results, without curves and baselines."""
        whole = self.dump()
        for attack in whole["attacks"]:
            own = attack.pop("detectors")[HEATWARD]
            attack |= {name: each for name, each in own.items() if name != "roc"}
        return {
            "accuracy": whole["classifier"]["accuracy"],
            "images": whole["images"],
            "attacks": whole["attacks"],
            "false_positives": whole["false_positives"][HEATWARD],
            **self._measured_reliability(),
            **({"cascade": whole["cascade"]} if self.cascade is not None else {}),
        }

    def _measured_reliability(self) -> dict[str, Any]:
        """Areas and counts, without the curves."""
        if self.reliability is None:
            return {}
        areas = {
            each.mixture: {name: round(curve.area, 5) for name, curve in each.curves.items()}
            for each in self.reliability.curves
        }
        return {
            "reliability": {
                "area_under_risk_coverage": areas,
                "accepted": [each.dump() for each in self.reliability.accepted],
            }
        }


def results(job: Job) -> Results:
    """The numbers and the examples of the job's own detector."""
    shards = [job.digests("attribute", split) for split in SPLITS]
    settings = job.config.evaluate.model_dump(mode="json", exclude={"leave_out"})  # measured by its own command
    fitted = fit_results(job, job.work / "fit").made_from
    parts = [fitted, shards, settings, SCHEMA_VERSION]
    if grouped := job.config.calibrate.grouping:
        parts.append(grouped)
    if clears := job.config.cascade.clears:
        parts += [glance_results(job).made_from, str(clears)]
    made_from = digest(parts)
    return Results("evaluate", job.work / "evaluate", (FILE, EXAMPLES), made_from)

"""The evaluate stage: a detector and the shards of the test split in; numbers, tables and a report in `evaluate/` out."""

from __future__ import annotations

from detector.detector import Detector
from training.config import SPLITS, Stage
from training.detectors import load_detector
from training.evaluation import SCHEMA_VERSION
from training.fitting.networks import results as fit_results
from training.job import Job
from training.resume import Results
from training.shards import digest

__all__ = ["INPUTS", "evaluate_detector", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("calibrate", "attack")
FILES = ("evaluation.json", "report.html")


def outputs(job: Job) -> Results:
    """The numbers and the report."""
    shards = [job.digests("attribute", split) for split in SPLITS]
    settings = job.config.evaluate.model_dump(mode="json", exclude={"leave_out"})  # measured by its own command
    fitted = fit_results(job, job.work / "fit").made_from
    return Results("evaluate", job.work / "evaluate", FILES, digest([fitted, shards, settings, SCHEMA_VERSION]))


def run(job: Job) -> None:
    """Measure the detector that the job made, unless that is done."""
    outputs(job).make(lambda: _measure(job, load_detector(job)), job.progress)


def evaluate_detector(job: Job, detector: Detector) -> None:
    """Measure a detector from elsewhere on this job's attack and attribution shards, which must be finished."""
    outputs(job).forget()  # what is written now does not belong to the job's own detector
    _measure(job, detector)


def _measure(job: Job, detector: Detector) -> None:
    from training.evaluation import evaluate  # matplotlib: only this stage needs it

    settings = job.config.evaluate
    evaluate.run(
        job.config,
        detector,
        baselines=settings.baselines if settings.baselines.names else None,
        resamples=settings.resamples,
        copies=job.copies,
        progress=job.progress,
    )

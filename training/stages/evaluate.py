"""The evaluate stage: a detector and the shards of the test split in; numbers, tables and examples out."""

from __future__ import annotations

from detector.detector import Detector
from training.config import Stage
from training.detectors import load_detector
from training.evaluation import evaluate
from training.evaluation.result import results
from training.job import Job
from training.resume import Results

__all__ = ["INPUTS", "evaluate_detector", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("calibrate", "attack")


def outputs(job: Job) -> Results:
    """The numbers and the examples."""
    return results(job)


def run(job: Job) -> None:
    """Measure the detector that the job made, unless that is done."""
    outputs(job).make(lambda: _measure(job, load_detector(job)), job.progress)


def evaluate_detector(job: Job, detector: Detector) -> None:
    """Measure a detector from elsewhere on this job's attack and attribution shards, which must be finished."""
    outputs(job).forget()  # what is written now does not belong to the job's own detector
    _measure(job, detector)


def _measure(job: Job, detector: Detector) -> None:
    evaluate.run(
        job.config,
        detector,
        resamples=job.config.evaluate.resamples,
        copies=job.copies,
        progress=job.progress,
    )

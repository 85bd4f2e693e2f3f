"""The fit stage: attribution shards of the split `fit` in, the heatmap networks in `fit/` out."""

from __future__ import annotations

from training.config import Stage
from training.fitting.networks import fit_networks, results
from training.job import Job
from training.resume import Results

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("attribute",)


def outputs(job: Job) -> Results:
    """The networks."""
    return results(job, job.work / "fit")


def run(job: Job) -> None:
    """Fit the ensemble, unless that is done.

    Raises:
        DataError: There is nothing to tell apart.
    """
    found = outputs(job)
    found.make(
        lambda: fit_networks(job.config, job.work, job.progress, found.folder, start=job.start, epochs=job.epochs),
        job.progress,
    )

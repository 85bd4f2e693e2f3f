"""The glance stage: attribution shards of the split `fit` in, the first look of a cascade in `glance/` out.

It has something to do where the configuration asks for a cascade.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.config import Stage
from training.fitting.glance import fit_glance, results
from training.job import Job

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("attribute",)


@dataclass(frozen=True)
class Made:
    """The glance networks of a job with a cascade; finished at once in a job without."""

    job: Job

    @property
    def finished(self) -> bool:
        """Whether there is nothing to make."""
        return not self.job.config.cascade.clears or results(self.job).finished

    def require(self) -> None:
        """Check that it is finished.

        Raises:
            DataError: It is not, or was made with other settings.
        """
        if not self.finished:
            results(self.job).require()


def outputs(job: Job) -> Made:
    """The glance networks, and scores of held-out clean images."""
    return Made(job)


def run(job: Job) -> None:
    """Fit them, unless that is done or there is no cascade.

    Raises:
        DataError: There is nothing to tell apart.
        CalibrationError: Too few images are held out.
    """
    if not outputs(job).finished:
        results(job).make(lambda: fit_glance(job), job.progress)

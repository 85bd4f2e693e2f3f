"""The stages of a job. Each is a module: what it reads, what it leaves and how it is made, the same for all.

A stage makes only what is missing or stale, leaves either a whole file or none, and calls no other stage:
`training.pipeline` orders them.
"""

from __future__ import annotations

from typing import Protocol

from training.config import Stage
from training.job import Job

__all__ = ["Outputs", "StageModule"]


class Outputs(Protocol):
    """What a stage leaves in the work folder."""

    @property
    def finished(self) -> bool:
        """Whether it was made with the job's settings."""

    def require(self) -> None:
        """Raise a DataError unless it is finished."""


class StageModule(Protocol):
    """A module of this package."""

    @property
    def INPUTS(self) -> tuple[Stage, ...]:
        """The stages whose outputs it reads."""

    def outputs(self, job: Job) -> Outputs | None:
        """What it leaves for other stages and for the next run; None where it is made each time."""

    def run(self, job: Job) -> None:
        """Make what is missing or stale, from inputs that are finished."""

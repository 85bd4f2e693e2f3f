"""The stages of a training job, in order: attack → attribute → fit → calibrate → evaluate → bundle.

Each stage reads what others wrote under the work folder, makes only what is missing or stale, and leaves either a whole
file or none; so a job can be killed at any point and run again. What the stages do: `training.stages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.config import STAGES, Stage, TrainingConfig
from training.job import Job, open_job
from training.progress import Progress
from training.stages import StageModule, attack, attribute, bundle, calibrate, evaluate, fit

__all__ = ["run", "run_stage"]

MODULES: Mapping[Stage, StageModule] = {
    "attack": attack,
    "attribute": attribute,
    "fit": fit,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "bundle": bundle,
}
QUICK: tuple[Stage, ...] = ("calibrate",)
"""Made on the way where another stage reads them, so that thresholds belong to the networks."""


def run(config: TrainingConfig, progress: Progress) -> Path:
    """Run every stage; returns the bundle's path.

    Raises:
        HeatwardError: Something the message explains.
    """
    job = open_job(config, progress)
    for stage in STAGES:
        run_stage(job, stage)
    return config.out


def run_stage(job: Job, name: Stage) -> None:
    """Run one stage, whose inputs were made with the same configuration.

    Raises:
        DataError: An input is not finished.
        HeatwardError: Something the message explains.
    """
    stage = MODULES[name]
    if stage.INPUTS and not ((done := stage.outputs(job)) and done.finished):
        for needed in stage.INPUTS:
            require(job, needed)
    stage.run(job)


def require(job: Job, name: Stage) -> None:
    """Check that a stage is finished; a quick one is run.

    Raises:
        DataError: It is not.
    """
    if name in QUICK:
        run_stage(job, name)
    elif (found := MODULES[name].outputs(job)) is not None:
        found.require()

"""The stages of a training job, in order: witness → attack → attribute → fit → glance → calibrate → evaluate → bundle.

Each stage reads what others wrote under the work folder, makes only what is missing or stale, and leaves either a whole
file or none; so a job can be killed at any point and run again. What the stages do: `training.stages`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from detector.lock import hold
from training.config import STAGES, Split, Stage, TrainingConfig
from training.job import Job, open_job
from training.progress import Progress
from training.rates import Rates
from training.stages import StageModule, attack, attribute, bundle, calibrate, evaluate, fit, glance, witness

__all__ = ["MODULES", "run", "run_stage", "work_of"]

MODULES: Mapping[Stage, StageModule] = {
    "witness": witness,
    "attack": attack,
    "attribute": attribute,
    "fit": fit,
    "glance": glance,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "bundle": bundle,
}
WHOLE: Mapping[Stage, tuple[Split, int]] = {
    "witness": ("fit", 1),
    "fit": ("fit", 0),
    "glance": ("fit", 0),
    "calibrate": ("calibrate", 1),
    "evaluate": ("test", 1),
    "bundle": ("test", 1),
}
"""What a stage that is not made by shards goes through, and how often; 0: in every epoch of every network."""
QUICK: tuple[Stage, ...] = ("calibrate",)
"""Made on the way where another stage reads them, so that thresholds belong to the networks."""


def run(config: TrainingConfig, progress: Progress) -> Path:
    """Run every stage; returns the bundle's path.

    Raises:
        HeatwardError: Something the message explains.
    """
    with hold(config.work):
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
    finished = (done := stage.outputs(job)) is not None and done.finished
    if not finished:
        for needed in stage.INPUTS:
            require(job, needed)
    started = time.monotonic()
    try:
        stage.run(job)
    finally:
        job.runner.close()
    if not finished and name in WHOLE:
        Rates(job.work).record(name, work_of(job, name), time.monotonic() - started)


def work_of(job: Job, name: Stage) -> int:
    """How many images a stage that is made as a whole goes through."""
    split, times = WHOLE[name]
    ensemble = (name == "glance" and job.config.cascade.ensemble) or job.config.fit.ensemble
    return len(job.splits[split]) * (times or job.epochs * ensemble)


def require(job: Job, name: Stage) -> None:
    """Check that a stage is finished; a quick one is run.

    Raises:
        DataError: It is not.
    """
    if name in QUICK:
        run_stage(job, name)
    elif (found := MODULES[name].outputs(job)) is not None:
        found.require()

"""The first look of a cascade: attribution shards of the split `fit` in, glance networks and held-out scores out.

    fit images, but for those held out ─▶ evidence with the glance's views alone ─▶ glance networks
    held-out clean images ─▶ their scores ─▶ the threshold that lets the configured share of them go

The share may change without another fit: only the scores are kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detector.bundle import Bundle
from detector.bundle.bundle import GLANCE
from detector.errors import CalibrationError
from detector.evidence import Evidence
from detector.scoring.calibration import FEWEST_SCORES, one_of_each
from detector.scoring.cascade import Cascade, threshold_of
from detector.scoring.network import score
from training.config import TrainingConfig
from training.fitting.held_out import ONE_OF, is_held_out
from training.fitting.networks import fit_networks, load_networks
from training.fitting.networks import results as fit_results
from training.job import Job
from training.resume import Results
from training.shards import digest, list_shards, read_shard, write_shard

__all__ = ["GLANCE_FOLDER", "check_vouched_for", "fit_glance", "load_cascade", "results"]

GLANCE_FOLDER = "glance"
SCORES = "scores.safetensors"


def results(job: Job) -> Results:
    """The glance networks and the scores, with the digest of everything that decides them."""
    fitted = fit_results(job, job.work / GLANCE_FOLDER, GLANCE_FOLDER)
    start = _glance_of(job.start)
    told: list[Any] = [fitted.made_from, ONE_OF, start is not None and start.manifest.files[GLANCE]]
    if views := _views(job.config):
        told.append(views)
    if (ensemble := job.config.cascade.ensemble) is not None:
        told.append({"ensemble": ensemble})
    return replace(fitted, files=(*fitted.files, SCORES), made_from=digest(told))


def fit_glance(job: Job) -> None:
    """Fit the glance networks and score the held-out clean images.

    Raises:
        DataError: There is nothing to tell apart.
        CalibrationError: Too few images are held out.
    """
    folder, start, views = job.work / GLANCE_FOLDER, _glance_of(job.start), _views(job.config)
    fit_networks(
        _fitted_by(job.config),
        job.work,
        job.progress,
        folder,
        lambda evidence: evidence.at_a_glance(views),
        learns=lambda index: ~is_held_out(index),
        start=start,
        epochs=job.start_epochs if start is not None else None,
    )
    networks = [network.to(job.classifier.device) for network in load_networks(folder)]
    scores, sources = [], []
    for label in job.config.unharmed("calibrate"):  # as calibration images arrive
        for path in list_shards(job.work, "attribute", "fit", label):
            shard = read_shard(path)
            held = is_held_out(shard["index"])
            evidence = Evidence.from_tensors(shard)[held].at_a_glance(views).float()
            if len(evidence):
                scores.append(score(networks, evidence.to(job.classifier.device))[0].double().cpu())
                sources.append(shard["index"][held])
    count = len(set(torch.cat(sources).tolist())) if sources else 0
    if count < FEWEST_SCORES:
        raise too_few(count)
    kept = one_of_each(torch.cat(scores).numpy(), torch.cat(sources).numpy())
    write_shard(folder / SCORES, {"scores": torch.from_numpy(kept)}, results(job).made_from)


def load_cascade(job: Job) -> Cascade | None:
    """The cascade that the configuration asks for, on the CPU; None where it asks for none.

    Raises:
        DataError: The glance stage has not run.
    """
    clears = job.config.cascade.clears
    if not clears:
        return None
    folder: Path = job.work / GLANCE_FOLDER
    threshold = threshold_of(read_shard(folder / SCORES)["scores"], clears)
    return Cascade(tuple(load_networks(folder)), threshold, clears, _views(job.config))


def check_vouched_for(clears: float, fit: int, calibrate: int) -> None:
    """See that there are images enough to let so many go, before the long part.

    Args:
        clears: The share.
        fit: Images to learn from.
        calibrate: Calibration images.

    Raises:
        CalibrationError: Too few would be held out, or too few would go on.
    """
    if not clears:
        return
    if fit // ONE_OF < FEWEST_SCORES:
        raise too_few(fit // ONE_OF)
    went_on = round((1 - clears) * calibrate)
    if went_on < FEWEST_SCORES:
        raise CalibrationError(
            f"[cascade] clears = {clears:g} lets about {went_on} of {calibrate} calibration images go on to the full "
            f"look, at least {FEWEST_SCORES} are needed for thresholds among them: clear a smaller share, or raise "
            "images.splits.calibrate"
        )


def too_few(held_out: int) -> CalibrationError:
    """What to say where the threshold would rest on nothing."""
    return CalibrationError(
        f"[cascade]: about {held_out} clean images would choose the glance's threshold, one of {ONE_OF} images to fit; "
        f"at least {FEWEST_SCORES} are needed: raise images.splits.fit to {ONE_OF * FEWEST_SCORES}, or have no cascade"
    )


def _fitted_by(config: TrainingConfig) -> TrainingConfig:
    """The configuration, with as many networks as the glance has."""
    ensemble = config.cascade.ensemble or config.fit.ensemble
    return config.model_copy(update={"fit": config.fit.model_copy(update={"ensemble": ensemble})})


def _views(config: TrainingConfig) -> tuple[int, ...]:
    """Places of the views that the glance takes."""
    return config.evidence.views.places(config.cascade.views)


def _glance_of(start: Bundle | None) -> Bundle | None:
    """The bundle whose glance networks the fit begins with."""
    if start is None or start.glance_weights is None:
        return None
    return replace(start, network_weights=start.glance_weights)

"""The calibrate stage: clean images of the calibrate split in, attack scores and `reliability.safetensors` out.

All clean images count, rightly and wrongly classified alike: a server cannot know which is which; and every way in
which they arrive (`[[deliveries]]`), since it cannot know that either. However many ways there are, a photograph counts
once. The scores become conformal p-values (`detector.scoring.calibration`).

Whether predictions were right says what may be promised of them (`training.fitting.reliability`). It is made here and
not by the fit, so that networks that took a night need not be fitted again for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.calibration import Calibration, one_of_each
from detector.scoring.network import score
from training.config import Stage
from training.detectors import RELIABILITY, SCORES
from training.fitting.networks import load_networks
from training.fitting.networks import results as fit_results
from training.fitting.reliability import Signed, fit_reliability
from training.job import Job
from training.resume import Results
from training.shards import digest, list_shards, read_shard, write_shard

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("fit", "attribute")
VERSION = 1
"""Of how reliability is calibrated. Raise this when that changes."""


def outputs(job: Job) -> Results:
    """The scores, and what may be promised of predictions: no tensor where that is nothing."""
    shards = job.digests("attribute", "calibrate")
    made_from = digest({"fit": fit_results(job, job.work / "fit").made_from, "shards": shards, "reliability": VERSION})
    return Results("calibrate", job.work / SCORES.parent, (SCORES.name, RELIABILITY.name), made_from)


def run(job: Job) -> None:
    """Score the calibrate split, unless that is done.

    Raises:
        CalibrationError: Too few images, or a score is not finite.
    """
    found = outputs(job)
    found.make(lambda: _score(job, found.made_from), job.progress)


def _score(job: Job, made_from: str) -> None:
    networks = [network.to(job.classifier.device) for network in load_networks(job.work / "fit")]
    labels = job.config.labels("calibrate")
    shards = [path for label in labels for path in list_shards(job.work, "attribute", "calibrate", label)]
    said: list[Tensor] = []
    shown: list[Tensor] = []
    signed: list[Signed] = []
    with job.progress.task("calibrate", total=len(job.splits["calibrate"]) * len(labels)) as advance:
        for shard in shards:
            tensors = read_shard(shard)
            evidence = Evidence.from_tensors(tensors).float().to(job.classifier.device)
            if len(evidence):
                scores, origin = score(networks, evidence)
                signed.append(Signed.of(tensors, evidence, scores, origin))
                said.append(scores.double().cpu())
                shown.append(tensors["index"])
            advance(len(evidence))
    every = torch.cat(said) if said else torch.zeros(0, dtype=torch.float64)
    kept = torch.from_numpy(one_of_each(every.numpy(), torch.cat(shown).numpy())) if said else every
    Calibration.fit(kept)  # raises if these scores cannot calibrate
    reliability = fit_reliability(job, networks, signed)
    write_shard(job.work / SCORES, {"scores": kept}, made_from)
    write_shard(job.work / RELIABILITY, reliability.tensors() if reliability else {}, made_from)

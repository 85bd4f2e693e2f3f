"""The calibrate stage: clean images of the calibrate split in, `calibrate/scores.safetensors` (attack scores) out.

All clean images count, rightly and wrongly classified alike: a server cannot know which is which; and every way in
which they arrive (`[[deliveries]]`), since it cannot know that either. However many ways there are, a photograph counts
once. The scores become conformal p-values (`detector.scoring.calibration`). With a cascade they are those of both
looks together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.calibration import Calibration, one_of_each
from detector.scoring.cascade import check_vouched
from training.config import Stage
from training.detectors import SCORES
from training.evaluation.scores import scorer
from training.fitting.glance import load_cascade
from training.fitting.glance import results as glance_results
from training.fitting.networks import load_networks
from training.fitting.networks import results as fit_results
from training.job import Job
from training.resume import Results
from training.shards import digest, list_shards, read_shard, write_shard

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("fit", "glance", "attribute")


def outputs(job: Job) -> Results:
    """The scores."""
    shards = job.digests("attribute", "calibrate")
    told = {"fit": fit_results(job, job.work / "fit").made_from, "shards": shards}
    if job.config.cascade.clears:
        told["cascade"] = [glance_results(job).made_from, str(job.config.cascade.clears)]
    return Results("calibrate", job.work / SCORES.parent, (SCORES.name,), digest(told))


def run(job: Job) -> None:
    """Score the calibrate split, unless that is done.

    Raises:
        CalibrationError: Too few images, a score is not finite, or the cascade cleared too many of them.
    """
    found = outputs(job)
    found.make(lambda: _score(job, found.made_from), job.progress)


def _score(job: Job, made_from: str) -> None:
    cascade = load_cascade(job)
    judge = scorer(load_networks(job.work / "fit"), job.classifier.device, cascade)
    labels = job.config.labels("calibrate")
    shards = [path for label in labels for path in list_shards(job.work, "attribute", "calibrate", label)]
    said: list[Tensor] = []
    shown: list[Tensor] = []
    with job.progress.task("calibrate", total=len(job.splits["calibrate"]) * len(labels)) as advance:
        for shard in shards:
            tensors = read_shard(shard)
            evidence = Evidence.from_tensors(tensors).float()
            if len(evidence):
                scores, _ = judge(evidence)
                said.append(scores.double().cpu())
                shown.append(tensors["index"])
            advance(len(evidence))
    every = torch.cat(said) if said else torch.zeros(0, dtype=torch.float64)
    kept = torch.from_numpy(one_of_each(every.numpy(), torch.cat(shown).numpy())) if said else every
    calibration = Calibration.fit(kept)  # raises if these scores cannot calibrate
    if cascade is not None:
        check_vouched(calibration)
    write_shard(job.work / SCORES, {"scores": kept}, made_from)

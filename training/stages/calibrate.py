"""The calibrate stage: clean images of the calibrate split in, attack scores and `reliability.safetensors` out.

With `[calibrate] by = "prediction"` the scores of each predicted class lie there as well (`detector.scoring.groups`).

All clean images count, rightly and wrongly classified alike: a server cannot know which is which; and every way in
which they arrive (`[[deliveries]]`), since it cannot know that either. However many ways there are, a photograph counts
once. The scores become conformal p-values (`detector.scoring.calibration`). With a cascade they are those of both
looks together.

With `[patches]` the same images are looked at under masks as well (`training.fitting.patches`).

Whether predictions were right says what may be promised of them (`training.fitting.reliability`). It is made here and
not by the fit, so that networks that took a night need not be fitted again for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.calibration import Calibration, one_of_each
from detector.scoring.cascade import check_vouched, score_of_both
from detector.scoring.groups import Groups
from training.config import Stage
from training.detectors import PATCHES, RELIABILITY, SCORES
from training.fitting.calibration import describe
from training.fitting.glance import load_cascade
from training.fitting.glance import results as glance_results
from training.fitting.networks import load_networks
from training.fitting.networks import results as fit_results
from training.fitting.patches import patch_scores
from training.fitting.reliability import Signed, fit_reliability
from training.job import Job
from training.resume import Results
from training.shards import digest, list_shards, read_shard, write_shard

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("fit", "glance", "attribute")
VERSION = 1
"""Of how reliability is calibrated. Where that changes, raise this and the evaluation's SCHEMA_VERSION."""


def outputs(job: Job) -> Results:
    """The scores, and what may be promised of predictions: no tensor where that is nothing."""
    shards = job.digests("attribute", "calibrate")
    parts: dict[str, Any] = {"fit": fit_results(job, job.work / "fit").made_from, "shards": shards}
    parts["reliability"] = VERSION
    if grouped := job.config.calibrate.grouping:
        parts["calibrate"] = grouped
    if job.config.cascade.clears:
        parts["cascade"] = [glance_results(job).made_from, str(job.config.cascade.clears)]
    files = [SCORES.name, RELIABILITY.name]
    if job.config.patches is not None:
        parts["patches"] = [job.config.patches.model_dump(mode="json"), job.digests("attack", "calibrate")]
        files.append(PATCHES.name)
    return Results("calibrate", job.work / SCORES.parent, tuple(files), digest(parts))


def run(job: Job) -> None:
    """Score the calibrate split, unless that is done.

    Raises:
        CalibrationError: Too few images, a score is not finite, or the cascade cleared too many of them.
    """
    found = outputs(job)
    found.make(lambda: _score(job, found.made_from), job.progress)


def _score(job: Job, made_from: str) -> None:
    device, cascade = job.classifier.device, load_cascade(job)
    cascade = cascade.to(device) if cascade is not None else None
    networks = [network.to(device) for network in load_networks(job.work / "fit")]
    labels = job.config.labels("calibrate")
    shards = [path for label in labels for path in list_shards(job.work, "attribute", "calibrate", label)]
    said: list[Tensor] = []
    shown: list[Tensor] = []
    signed: list[Signed] = []
    predicted: list[Tensor] = []
    with job.progress.task("calibrate", total=len(job.splits["calibrate"]) * len(labels)) as advance:
        for shard in shards:
            tensors = read_shard(shard)
            evidence = Evidence.from_tensors(tensors).float().to(device)
            if len(evidence):
                scores, origin = score_of_both(cascade, networks, evidence)
                signed.append(Signed.of(tensors, evidence, scores, origin, views=cascade is None))
                said.append(scores.double().cpu())
                shown.append(tensors["index"])
                predicted.append(tensors["prediction"])
            advance(len(evidence))
    nothing = torch.zeros(0, dtype=torch.int64)
    every = torch.cat(said).numpy() if said else np.zeros(0)
    sources, predictions = (torch.cat(each or [nothing]).numpy().astype(np.int64) for each in (shown, predicted))
    kept = torch.from_numpy(one_of_each(every, sources)) if said else torch.zeros(0, dtype=torch.float64)
    calibration, groups, settings = Calibration.fit(kept), None, job.config.calibrate  # raises if it cannot calibrate
    if settings.by == "prediction":
        classes = job.classifier.num_classes
        groups = Groups.fit(every, predictions, sources, classes=classes, rate=settings.rate)
    if cascade is not None:
        check_vouched(calibration, groups, job.classifier.classes)
    _, notes = describe(calibration, groups, settings, job.classifier.classes)
    for note in notes:
        job.progress.note(f"calibrate: {note}")
    reliability = fit_reliability(job, networks, signed, cascade)
    if job.config.patches is not None:
        write_shard(job.work / PATCHES, {"scores": patch_scores(job)}, made_from)
    write_shard(job.work / SCORES, {"scores": kept, **(groups.tensors() if groups else {})}, made_from)
    write_shard(job.work / RELIABILITY, reliability.tensors() if reliability else {}, made_from)

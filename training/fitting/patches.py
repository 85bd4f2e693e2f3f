"""What clean images score where patches are looked for: attack shards of the split `calibrate` in, scores out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration, one_of_each
from detector.scoring.patches import answers_under, score_of
from training.job import Job
from training.shards import list_shards, read_columns

__all__ = ["patch_scores"]


def patch_scores(job: Job) -> Tensor:
    """(n,) float64 scores of clean images under the masks of `[patches]`, one of each photograph.

    Raises:
        CalibrationError: Too few images.
        ConfigError: The job asks for none, or the masks hide too much of an image.
    """
    if job.config.patches is None:
        raise ConfigError("patches: the configuration has no table [patches]")
    covering, batch = Covering.of(job.classifier.input_size, job.config.patches), job.config.batch_size
    labels = job.config.labels("calibrate")
    found: list[Tensor] = []
    sources: list[Tensor] = []
    with job.progress.task("patches", total=len(job.splits["calibrate"]) * len(labels)) as advance:
        for label in labels:
            for path in list_shards(job.work, "attack", "calibrate", label):
                shard = read_columns(path, ("images", "prediction", "index"))
                for images, predictions in zip(
                    torch.split(shard["images"], batch), torch.split(shard["prediction"], batch), strict=True
                ):
                    answers = answers_under(covering, job.classifier, images.float() / 255)
                    found.append(score_of(answers, predictions).double())
                    advance(len(images))
                sources.append(shard["index"])
    every, shown = (torch.cat(each).numpy() if each else np.zeros(0) for each in (found, sources))
    return Calibration.fit(torch.from_numpy(one_of_each(every, shown.astype(np.int64)))).scores

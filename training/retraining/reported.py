"""Reported attacks to learn from: a job and recorded files in; a job whose fit split has them as a family, too, out.

    work/retrain/traffic.safetensors ─▶ work/attack/fit/reported/ ─▶ work/attribute/fit/reported/ ─▶ fit

Nothing is attacked here: these images came as they are. The classifier of today judges them, and their evidence is
computed anew by the ordinary stage. Where somebody said what an image shows, that is the label to recover, and an image
that is rightly classified is no attack that worked; where nobody did, only the family is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from training.config import Split, TrainingConfig
from training.job import Job
from training.retraining.kept import Lesson, prepared
from training.runners import ShardPlan, ShardStage
from training.runners.worker import predict
from training.shards import digest, digest_of, rows_of, shard_path, write_shard

__all__ = ["FEWEST", "REPORTED", "learn_attacks"]

REPORTED = "reported"
"""Label and family."""
FEWEST = 10
"""Images: every family weighs alike in a fit, so fewer would be learnt by heart, at the cost of the others."""
UNKNOWN = -1


class LearningConfig(TrainingConfig):
    """A configuration whose fit split has reported attacks, too."""

    def labels(self, split: Split) -> tuple[str, ...]:
        return (*super().labels(split), *((REPORTED,) if split == "fit" else ()))

    def family_of(self, label: str) -> str:
        return REPORTED if label == REPORTED else super().family_of(label)

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*super().families, REPORTED)))


@dataclass(frozen=True)
class LearningJob(Job):
    """A job with such a configuration."""

    reported: tuple[str, ...] = ()
    """Digests of the shards of reported attacks."""

    def plan(self, stage: ShardStage, split: Split, label: str) -> list[ShardPlan]:
        if label != REPORTED:
            return super().plan(stage, split, label)
        plans = []
        for number, made_from in enumerate(self.reported):
            source = shard_path(self.work, "attack", split, label, number)
            path, rows = shard_path(self.work, stage, split, label, number), rows_of(source)
            looked_at = self.looked_at(made_from) if stage == "attribute" else made_from
            plans.append(ShardPlan(stage, split, label, path, looked_at, rows, 0, source))
        return plans

    def settings(self, stage: str, label: str) -> dict[str, Any]:
        if label != REPORTED:
            return super().settings(stage, label)
        return {"classifier": self.classifier.fingerprint, "reported": digest(self.reported)}


def learn_attacks(job: Job, attacks: Sequence[Lesson]) -> Job:
    """The job that learns from reported attacks, too; the same job, and a note, where there are too few.

    Args:
        job: An ordinary one.
        attacks: Recorded images.
    """
    if not attacks:
        return job
    if job.config.attack(REPORTED) is not None:
        job.progress.note(f"an attack is labelled {REPORTED!r}, so reported ones are not learnt from: rename it")
        return job
    size = job.config.shard_size
    parts = [attacks[start : start + size] for start in range(0, len(attacks), size)]
    digests = tuple(_write(job, number, part) for number, part in enumerate(parts))
    rows = sum(rows_of(shard_path(job.work, "attack", "fit", REPORTED, number)) for number in range(len(parts)))
    if rows < FEWEST:
        job.progress.note(
            f"reported attacks: {rows} of {len(attacks)} can be read and are wrongly classified; at least {FEWEST} are "
            "needed to learn from"
        )
        return job
    known = {each.name: getattr(job, each.name) for each in fields(Job)}
    learning = LearningConfig.model_construct(
        **{name: getattr(job.config, name) for name in TrainingConfig.model_fields}
    )
    return LearningJob(**known | {"config": learning}, reported=digests)


def _write(job: Job, number: int, attacks: Sequence[Lesson]) -> str:
    """One shard of images, as the attack stage leaves them; returns its digest."""
    told = [[each.identity, each.true_label] for each in attacks]
    made_from = digest([REPORTED, job.classifier.fingerprint, job.config.batch_size, told])
    path = shard_path(job.work, "attack", "fit", REPORTED, number)
    if digest_of(path) != made_from:
        write_shard(path, _tensors(job, number, attacks), made_from)
    return made_from


def _tensors(job: Job, number: int, attacks: Sequence[Lesson]) -> dict[str, Tensor]:
    classes = job.classifier.classes
    images, truth, index = [], [], []
    for at, each in enumerate(attacks):
        image = prepared(each.content, job.classifier, f"reported attack {each.identity}", job.progress)
        if image is not None:
            images.append(image)
            truth.append(classes.index(each.true_label) if each.true_label in classes else UNKNOWN)
            index.append(-1 - number * job.config.shard_size - at)  # no image of a split
    pixels = torch.stack(images) if images else torch.zeros((0, 3, *job.classifier.input_size), dtype=torch.uint8)
    shown = torch.tensor(truth, dtype=torch.int64)
    prediction = predict(job.classifier, pixels, job.config.batch_size)
    fooled = prediction != shown
    distance = torch.full((int(fooled.sum()),), torch.nan)  # from an image that nobody has
    return {
        "images": pixels[fooled],
        "index": torch.tensor(index, dtype=torch.int64)[fooled],
        "truth": shown[fooled],
        "origin": shown[fooled],
        "prediction": prediction[fooled],
        "linf": distance,
        "l2": distance,
    }

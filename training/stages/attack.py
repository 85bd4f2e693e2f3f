"""The attack stage: source images in; shards of clean, noise-twin, corrupted and attacked images out.

A shard holds images uint8 (n, 3, H, W), index (n,) source image, truth (n,), origin (n,) = the prediction on the clean
image, prediction (n,) on this image, linf and l2 (n,) in [0, 1] units. Every attempt of an attack is kept; it succeeded
where prediction ≠ origin. One shard of images is in memory at a time.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.evidence import EvidenceExtractor
from training.attacks import Distance, attack_images, noise_twin
from training.attacks.corruptions import corrupt
from training.checks import check_attacks, check_classifier, check_images
from training.config import CLEAN, Stage
from training.job import Job, ShardPlan
from training.resume import ShardResults, make_shards
from training.shards import derived_seed, read_shard, shard_path

__all__ = ["INPUTS", "outputs", "predict", "run"]

INPUTS: tuple[Stage, ...] = ()

NAMED = 10


def outputs(job: Job) -> ShardResults:
    """Every shard of images."""
    return ShardResults("attack", job)


def run(job: Job) -> None:
    """Make what is missing.

    Raises:
        DataError: An image cannot be read, the classifier is hardly better than chance, an attack broke its epsilon,
            or none changed a prediction.
        CalibrationError: Too few calibration images to flag anything.
        ConfigError: An attack fails.
        NoGradientError: The classifier has no gradients or no layers to look at.
    """
    EvidenceExtractor(job.classifier, job.config.evidence, job.witness)  # what cannot be looked at is said now
    check_images(job)
    plans = list(job.plans("attack"))
    for _, label, shards in plans:
        if label == CLEAN:
            make_shards(job, shards, partial(_clean, job))
    check_classifier(job)
    for split, label, shards in plans:
        if label != CLEAN:
            rows, changed = make_shards(job, shards, partial(_from_clean, job))
            if rows:
                job.progress.note(f"attack {split}/{label}: prediction changed on {changed / rows:.1%} of {rows}")
    check_attacks(job)


def predict(classifier: Classifier, pixels: Tensor, batch_size: int) -> Tensor:
    """Predicted labels (n,) of uint8 images (n, 3, H, W), on the CPU."""
    labels = []
    with torch.no_grad():
        for batch in torch.split(pixels, batch_size) if len(pixels) else ():
            labels.append(classifier(batch.to(classifier.device).float() / 255).argmax(1).cpu())
    return torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64)


def _clean(job: Job, plan: ShardPlan) -> dict[str, Tensor]:
    images = job.splits[plan.split].read(
        plan.start, plan.stop, job.classifier.prepare, skip_unreadable=job.config.images.skip_unreadable
    )
    if images.skipped:
        named = ", ".join(images.skipped[:NAMED]) + (", …" if len(images.skipped) > NAMED else "")
        job.progress.note(f"{plan.split}: left out {len(images.skipped)} unreadable images: {named}")
    origin = predict(job.classifier, images.pixels, job.config.batch_size)
    return _tensors(images.pixels, images.pixels, images.index, images.truth, origin, origin)


def _from_clean(job: Job, plan: ShardPlan) -> dict[str, Tensor]:
    config = job.config
    clean = read_shard(shard_path(job.work, "attack", plan.split, CLEAN, plan.number))
    pixels, origin = clean["images"][: plan.rows], clean["origin"][: plan.rows]
    seed = derived_seed(config.seed, "attack", plan.split, plan.label, plan.number)
    attack = job.attack(plan.label)
    if attack is not None:
        changed = attack_images(attack, job.classifier, pixels, origin, seed=seed, batch_size=config.batch_size)
    elif plan.label in config.corruptions.labels:
        changed = corrupt(pixels, *config.corruptions.labels[plan.label], seed)
    else:
        changed = noise_twin(pixels, config.twins.labels[plan.label], seed)
    prediction = predict(job.classifier, changed, config.batch_size)
    return _tensors(changed, pixels, clean["index"][: plan.rows], clean["truth"][: plan.rows], origin, prediction)


def _tensors(
    images: Tensor, clean: Tensor, index: Tensor, truth: Tensor, origin: Tensor, prediction: Tensor
) -> dict[str, Tensor]:
    distance = Distance.between(clean, images)
    return {
        "images": images,
        "index": index,
        "truth": truth,
        "origin": origin,
        "prediction": prediction,
        "linf": distance.linf,
        "l2": distance.l2,
    }

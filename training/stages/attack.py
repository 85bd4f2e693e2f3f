"""The attack stage: source images in; shards of clean, noise-twin, corrupted and attacked images out.

A shard holds images uint8 (n, 3, H, W), index (n,) source image, truth (n,), origin (n,) = the prediction on the clean
image, prediction (n,) on this image, linf and l2 (n,) in [0, 1] units. Every attempt of an attack is kept; it succeeded
where prediction ≠ origin. Workers make them: training/runners.
"""

from __future__ import annotations

from detector.evidence.covering import Covering
from training.checks import check_attacks, check_classifier, check_images, try_attacks
from training.config import CLEAN, Stage
from training.job import Job
from training.resume import ShardResults, make_shards
from training.runners.worker import predict

__all__ = ["INPUTS", "outputs", "predict", "run"]

INPUTS: tuple[Stage, ...] = ("witness",)


def outputs(job: Job) -> ShardResults:
    """Every shard of images."""
    return ShardResults("attack", job)


def run(job: Job) -> None:
    """Make what is missing.

    Raises:
        DataError: An image cannot be read, the classifier is hardly better than chance, an attack broke its epsilon,
            or none changed a prediction.
        CalibrationError: Too few calibration images to flag anything, or for the cascade.
        ConfigError: An attack fails, there is nothing that a cascade's glance could see, or masks hide too much.
        NoGradientError: The classifier has no gradients or no layers to look at.
    """
    extractor = job.worker.extractor  # what cannot be looked at is said now
    if job.config.cascade.clears:
        extractor.check_glance()
    if job.config.patches is not None:
        Covering.of(job.classifier.input_size, job.config.patches)
    check_images(job)
    plans = list(job.plans("attack"))
    try_attacks(job, [plan for _, _, shards in plans for plan in shards])
    for _, label, shards in plans:
        if label == CLEAN:
            make_shards(job, shards)
    check_classifier(job)
    for split, label, shards in plans:
        if label != CLEAN:
            rows, changed = make_shards(job, shards)
            if rows:
                job.progress.note(f"attack {split}/{label}: prediction changed on {changed / rows:.1%} of {rows}")
    check_attacks(job)

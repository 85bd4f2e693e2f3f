"""The attribute stage: attack shards in, shards of `Evidence` (what the heatmap network reads) out.

Clean images, noise twins and corruptions are kept whole; of an attack only the images that changed the prediction are.
A shard holds the evidence's tensors and index, truth, origin, prediction, linf, l2 of its rows. Evidence is stored in
half precision, except for the calibrate split: thresholds are set on exactly what a server will compute. Workers make
them: training/runners.
"""

from __future__ import annotations

from training.config import Stage
from training.job import Job
from training.resume import ShardResults, make_shards

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("attack",)


def outputs(job: Job) -> ShardResults:
    """Every shard of evidence."""
    return ShardResults("attribute", job)


def run(job: Job) -> None:
    """Make what is missing.

    Raises:
        DataError: Evidence is not finite.
        NoGradientError: The classifier has no gradients or no layers to look at.
    """
    for _, _, plans in job.plans("attribute"):
        make_shards(job, plans)

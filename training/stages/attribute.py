"""The attribute stage: attack shards in, shards of `Evidence` (what the heatmap network reads) out.

Clean images, noise twins and corruptions are kept whole; of an attack only the images that changed the prediction are.
A shard holds the evidence's tensors and index, truth, origin, prediction, linf, l2 of its rows. Evidence is stored in
half precision, except for the calibrate split: thresholds are set on exactly what a server will compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.errors import DataError
from detector.evidence import Evidence, EvidenceExtractor
from training.config import Split, Stage
from training.job import Job, ShardPlan
from training.resume import ShardResults, make_shards
from training.shards import read_shard, shard_path

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("attack",)

COLUMNS = ("index", "truth", "origin", "prediction", "linf", "l2")
FULL_PRECISION = ("logits",)
HALF_MAX = torch.finfo(torch.float16).max


def outputs(job: Job) -> ShardResults:
    """Every shard of evidence."""
    return ShardResults("attribute", job)


def run(job: Job) -> None:
    """Make what is missing.

    Raises:
        DataError: Evidence is not finite.
        NoGradientError: The classifier has no gradients or no layers to look at.
    """
    extractor = EvidenceExtractor(job.classifier, job.config.evidence, job.witness)
    for _, _, plans in job.plans("attribute"):
        make_shards(job, plans, lambda plan: _shard(job, plan, extractor))


def _shard(job: Job, plan: ShardPlan, extractor: EvidenceExtractor) -> dict[str, Tensor]:
    attack = read_shard(shard_path(job.work, "attack", plan.split, plan.label, plan.number))
    if job.attack(plan.label) is not None:
        success = attack["prediction"] != attack["origin"]
        attack = {name: tensor[success] for name, tensor in attack.items()}
    evidence = _extract(extractor, attack["images"], job.config.batch_size)
    stored = {name: _stored(name, tensor, plan.split) for name, tensor in evidence.tensors().items()}
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"{plan.path}: evidence {name!r} is not finite; check the classifier's activations")
    return stored | {name: attack[name] for name in COLUMNS}


def _extract(extractor: EvidenceExtractor, pixels: Tensor, batch_size: int) -> Evidence:
    device = extractor.classifier.device
    if not len(pixels):
        # no row, but the shapes of one: whoever reads shards can always concatenate them
        blank = torch.zeros((1, 3, *extractor.classifier.input_size), device=device)
        return extractor(blank).to("cpu")[:0]
    parts = [extractor(batch.to(device).float() / 255).to("cpu") for batch in torch.split(pixels, batch_size)]
    return Evidence.cat(parts)


def _stored(name: str, tensor: Tensor, split: Split) -> Tensor:
    if not tensor.is_floating_point() or name in FULL_PRECISION or split == "calibrate":
        return tensor
    return tensor.clamp(-HALF_MAX, HALF_MAX).to(torch.float16)

"""Tensors of a batch → labels of each image with their probabilities, as a verdict holds them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Labels", "pairs", "recovered"]

Labels = tuple[tuple[int, float], ...]
"""Labels with their probabilities, best first."""


def recovered(candidates: Tensor, origin: Tensor) -> list[Labels]:
    """Origin probabilities (B, C) of candidates (B, C), the prediction first → those of the others, best first."""
    others = origin[:, 1:].double().clamp_min(torch.finfo(torch.float32).tiny)  # where all underflow: alike
    shares, order = (others / others.sum(1, keepdim=True)).sort(dim=1, descending=True, stable=True)
    return pairs(candidates[:, 1:].gather(1, order), shares)


def pairs(labels: Tensor, values: Tensor) -> list[Labels]:
    """(B, K) and (B, K) → for each image, K labels with their values."""
    rows = zip(labels.tolist(), values.tolist(), strict=True)
    return [tuple(zip(indices, shares, strict=True)) for indices, shares in rows]

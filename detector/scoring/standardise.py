"""asinh(x / scale), then zero mean and unit variance: magnitudes stay, outliers are tamed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Standardise"]


class Standardise(nn.Module):
    """x (N, …) → the same shape; the statistics are those of the fit images."""

    scale: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(*shape))
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("deviation", torch.ones(*shape))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take the statistics of x (N, …) over every dimension in which the buffers have size 1."""
        over = [0, *(i + 1 for i, size in enumerate(self.scale.shape) if size == 1)]
        self.scale.copy_(x.abs().mean(over, keepdim=True)[0].clamp_min(1e-6))
        squashed = torch.asinh(x / self.scale)
        self.mean.copy_(squashed.mean(over, keepdim=True)[0])
        self.deviation.copy_(squashed.std(over, keepdim=True)[0].clamp_min(1e-3))

    def forward(self, x: Tensor) -> Tensor:
        squashed: Tensor = (torch.asinh(x / self.scale) - self.mean) / self.deviation
        return squashed

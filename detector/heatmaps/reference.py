"""What stands where an image is taken away: the image's mean colour, the image under a blur, noise, or a grey level."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detector.errors import HeatmapError

__all__ = ["Reference", "cover"]

Reference = Literal["mean", "blur", "noise"] | float
"""See `cover`."""

NOISE = 0.2


def cover(images: Tensor, reference: Reference, *, setting: str = "reference", seed: int = 0) -> Tensor:
    """What stands where an image is taken away; broadcasts to `images` (B, 3, H, W).

    Args:
        images: (B, 3, H, W) in [0,1].
        reference: Each image's own "mean" colour; each image under a "blur" (Gaussian, σ an eighth of its side);
            Gaussian "noise" around its mean colour (σ 0.2), the same field for every image; or a grey level in [0,1].
        setting: What the method calls `reference`, for its error.
        seed: Of the noise.

    Raises:
        HeatmapError: No such reference.
    """
    if reference == "mean":
        return images.mean((2, 3), keepdim=True)
    if reference == "blur":
        rows, columns = (_gaussian(side, side / 8).to(images) for side in images.shape[2:])
        return rows @ images @ columns.T
    if reference == "noise":
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
        noise = NOISE * torch.randn(images.shape[1:], generator=generator).to(images)
        return (images.mean((2, 3), keepdim=True) + noise).clamp(0, 1)
    if isinstance(reference, str) or not 0 <= reference <= 1:
        raise HeatmapError(f"{setting}: expected 'mean', 'blur', 'noise' or a grey level in [0, 1], got {reference!r}")
    return torch.full((1, 1, 1, 1), float(reference), dtype=images.dtype, device=images.device)


def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side) weights of a blur along one axis; rows sum to 1, so nothing leaks in from beyond the border."""
    position = torch.arange(side)
    weights = torch.exp(-(position[:, None] - position).square() / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)

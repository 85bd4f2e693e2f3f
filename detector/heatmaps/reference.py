"""What stands where an image is taken away: the image's mean colour, the image under a blur, noise, or a grey level.

For soft masks, which take away more or less of a pixel, it is a ladder from what hides most to the image itself.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detector.errors import HeatmapError
from detector.heatmaps.masks import blend

__all__ = ["MaskReference", "Reference", "cover", "levels", "seen"]

Reference = Literal["mean", "blur", "noise"] | float
"""See `cover`."""
MaskReference = Reference | Literal["blurs"]
"""See `levels`."""

NOISE = 0.2
BLURS = 7
STRONGEST = 20 / 224  # standard deviation of the strongest of them, as a share of the side: the paper's


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
        return _blurred(images, 1 / 8)
    if reference == "noise":
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
        noise = NOISE * torch.randn(images.shape[1:], generator=generator).to(images)
        return (images.mean((2, 3), keepdim=True) + noise).clamp(0, 1)
    if isinstance(reference, str) or not 0 <= reference <= 1:
        known = "'mean', 'blur', 'noise' or a grey level in [0, 1] (for learned masks 'blurs', too)"
        raise HeatmapError(f"{setting}: expected {known}, got {reference!r}")
    return torch.full((1, 1, 1, 1), float(reference), dtype=images.dtype, device=images.device)


def levels(images: Tensor, reference: MaskReference, *, seed: int = 0) -> Tensor:
    """What soft masks choose from, (B, L, 3, H, W): what hides most first, the image last.

    Args:
        images: (B, 3, H, W) in [0,1].
        reference: One that `cover` knows: the image fades into it. Or "blurs": a mask says how strongly a pixel is
            blurred, up to σ 20 pixels of 224 (Fong, Patrick & Vedaldi 2019); half a mask hides nearly all detail.
        seed: Of the noise.

    Raises:
        HeatmapError: No such reference.
    """
    if reference == "blurs":
        ladder = [_blurred(images, STRONGEST * (1 - step / BLURS)) for step in range(BLURS)]
    else:
        ladder = [cover(images, reference, seed=seed).expand_as(images)]
    return torch.stack([*ladder, images], 1)


def seen(ladder: Tensor, masks: Tensor) -> Tensor:
    """The picture (N, 3, H, W) through masks (N, H, W): 1 shows the last of `levels` (N, L, 3, H, W), 0 the first."""
    if ladder.shape[1] == 2:
        return blend(ladder[:, 1], ladder[:, 0], masks)
    rungs = torch.arange(ladder.shape[1], device=masks.device)[:, None, None]
    near = (1 - (masks[:, None] * (ladder.shape[1] - 1) - rungs).abs()).clamp(min=0)  # (N, L, H, W): two are above 0
    return torch.einsum("nlhw,nlchw->nchw", near, ladder)


def _blurred(images: Tensor, share: float) -> Tensor:
    """Under a Gaussian whose σ is a share of each side."""
    rows, columns = (_gaussian(side, share * side).to(images) for side in images.shape[2:])
    return rows @ images @ columns.T


def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side) weights of a blur along one axis; rows sum to 1, so nothing leaks in from beyond the border."""
    position = torch.arange(side)
    weights = torch.exp(-(position[:, None] - position).square() / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)

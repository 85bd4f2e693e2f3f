"""Common corruptions: clean images (8 bits) in, changes of five severities (8 bits) out that nobody meant as an attack.

The idea is that of Hendrycks & Dietterich 2019; the strengths are ours. Sigma in pixels grows with the image's shorter
side, so that 224 px look as blurred as 32 px.

    kind             severity    1      2      3      4      5
    gaussian-noise   sigma       0.02   0.04   0.06   0.08   0.10   of [0, 1], drawn for every value
    gaussian-blur    sigma       0.40   0.55   0.70   0.85   1.00   pixels at side 32
    jpeg             quality     80     65     50     40     30
    brightness       added       0.05   0.10   0.15   0.20   0.30   of [0, 1]
    contrast         factor      0.85   0.70   0.55   0.40   0.30   of the distance from the image's mean colour
    rotation         degrees     2.5    5      7.5    10     15     left or right, drawn for every image; edges mirrored
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from training.settings import Corruption

__all__ = ["STRENGTHS", "corrupt", "moved"]

STRENGTHS: dict[Corruption, tuple[float, ...]] = {
    "gaussian-noise": (0.02, 0.04, 0.06, 0.08, 0.10),
    "gaussian-blur": (0.40, 0.55, 0.70, 0.85, 1.00),
    "jpeg": (80, 65, 50, 40, 30),
    "brightness": (0.05, 0.10, 0.15, 0.20, 0.30),
    "contrast": (0.85, 0.70, 0.55, 0.40, 0.30),
    "rotation": (2.5, 5.0, 7.5, 10.0, 15.0),
}
REFERENCE_SIDE = 32


def corrupt(pixels: Tensor, kind: Corruption, severity: int, seed: int) -> Tensor:
    """Corrupt images.

    Args:
        pixels: (n, 3, H, W) uint8.
        kind: A key of `STRENGTHS`.
        severity: 1 to 5.
        seed: Decides what is drawn: noise, and the direction of each rotation.

    Returns:
        (n, 3, H, W) uint8.
    """
    if not len(pixels):
        return pixels.clone()
    generator = torch.Generator().manual_seed(seed)
    changed = _APPLY[kind](pixels.float() / 255, STRENGTHS[kind][severity - 1], generator)
    return changed.clamp(0, 1).mul(255).round().to(torch.uint8)


def _noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=generator)


def _blur(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    sigma *= min(images.shape[-2:]) / REFERENCE_SIDE
    blurred: Tensor = transforms.gaussian_blur(images, kernel_size=2 * math.ceil(3 * sigma) + 1, sigma=sigma)
    return blurred


def _jpeg(images: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    encoded: Tensor = transforms.jpeg(images.mul(255).round().to(torch.uint8), quality=int(quality))
    return encoded.float() / 255


def _brightness(images: Tensor, added: float, generator: torch.Generator) -> Tensor:
    return images + added


def _contrast(images: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _rotation(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    sign = torch.randint(0, 2, (len(images),), generator=generator).mul(2).sub(1)
    return moved(images, sign * math.radians(degrees))


def moved(images: Tensor, angle: Tensor, right: float = 0.0, down: float = 0.0) -> Tensor:
    """Images rotated about their middle and shifted, edges mirrored.

    Args:
        images: (n, 3, H, W).
        angle: (n,) radians.
        right: Shift, as a share of the width.
        down: Shift, as a share of the height.
    """
    height, width = images.shape[-2:]
    cosine, sine = angle.cos(), angle.sin()
    # the grid is in units of half a side: sides of unequal length must not shear the image
    top = torch.stack([cosine, -sine * height / width, torch.full_like(cosine, -2 * right)], dim=1)
    bottom = torch.stack([sine * width / height, cosine, torch.full_like(cosine, -2 * down)], dim=1)
    grid = functional.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


_APPLY: dict[Corruption, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian-noise": _noise,
    "gaussian-blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
    "rotation": _rotation,
}

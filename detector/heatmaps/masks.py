"""The mathematics of learned masks: parameters (N, g, g) → smooth masks (N, H, W) of exactly the area asked for.

A mask is the soft level set of a smooth field. The field is the smooth maximum of a bump around every cell of a coarse
lattice: the smooth max-convolution of Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations
and Smooth Masks" (2019), section 3.2, in the log domain, where with Gaussian bumps it is two small matrix products. The
level is found by bisection, so the area holds at every step and needs no weight that has to be tuned.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SmoothMax", "Upsample", "blend", "level_of", "level_set", "rank_term", "total_variation"]

BISECTIONS = 20
TEMPERATURE = 0.3  # of the smooth maximum, in units of the field
SMALLEST = 1e-30  # a cell this far below the highest one counts as absent


def blend(images: Tensor, covers: Tensor, masks: Tensor) -> Tensor:
    """The image where the mask is 1, the cover where it is 0: (N, 3, H, W) from masks (N, H, W)."""
    return torch.lerp(covers.expand_as(images), images, masks[:, None])


class SmoothMax:
    """Lattice (N, g, g) → field (N, H, W): log of the smooth maximum over cells v of exp(lattice_v) · bump(u - v).

    Args:
        size: (H, W).
        grid: Cells a side, g.
        spread: Standard deviation of a bump, in cells.
    """

    def __init__(self, size: tuple[int, int], grid: int, spread: float, device: torch.device) -> None:
        self._rows, self._columns = (_bumps(side, grid, spread).to(device) for side in size)

    def __call__(self, lattice: Tensor) -> Tensor:
        highest = lattice.detach().amax((1, 2), keepdim=True)
        summed = self._rows @ torch.exp((lattice - highest) / TEMPERATURE) @ self._columns.T
        return highest + TEMPERATURE * summed.clamp(min=SMALLEST).log()


class Upsample:
    """Coarse masks (N, g, g) → (N, H, W): every pixel is a weighted mean of cells near it, Gaussian, σ half a cell."""

    def __init__(self, size: tuple[int, int], grid: int, device: torch.device) -> None:
        weights = (_bumps(side, grid, 0.5 / TEMPERATURE**0.5).to(device) for side in size)
        self._rows, self._columns = (each / each.sum(1, keepdim=True) for each in weights)

    def __call__(self, coarse: Tensor) -> Tensor:
        return self._rows @ coarse @ self._columns.T


def _bumps(side: int, grid: int, spread: float) -> Tensor:
    """(side, grid): a bump's weight at each pixel, one-dimensional."""
    pixels = (torch.arange(side) + 0.5) * grid / side  # in cells
    distance = pixels[:, None] - (torch.arange(grid) + 0.5)
    return torch.exp(-distance.square() / (2 * spread**2 * TEMPERATURE))


def level_set(field: Tensor, level: Tensor, sharpness: float) -> Tensor:
    """Soft indicator, in [0,1], of where the field (N, …) lies above its level (N,)."""
    return torch.sigmoid(sharpness * (field - level.view(-1, *[1] * (field.ndim - 1))))


@torch.no_grad()
def level_of(field: Tensor, areas: Tensor, sharpness: float) -> Tensor:
    """(N,): the level at which the soft level set of `field` (N, …) has mean `areas` (N,)."""
    low = field.flatten(1).amin(1) - 16 / sharpness
    high = field.flatten(1).amax(1) + 16 / sharpness
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_large = level_set(field, middle, sharpness).flatten(1).mean(1) > areas
        low, high = torch.where(too_large, middle, low), torch.where(too_large, high, middle)
    return (low + high) / 2


def rank_term(masks: Tensor, areas: Tensor) -> Tensor:
    """(N,): mean square distance of the sorted mask from that of a binary mask of its area (2019, equation 3).

    Args:
        masks: (N, …) in [0,1].
        areas: (N,).
    """
    ranked = masks.flatten(1).sort(dim=1).values
    position = torch.arange(ranked.shape[1], device=masks.device)
    ideal = position >= ((1 - areas) * ranked.shape[1]).round()[:, None]
    return (ranked - ideal.to(ranked)).square().mean(1)


def total_variation(masks: Tensor, power: float) -> Tensor:
    """(N,): mean over (N, g, g) of |difference to the next cell| ** power, both ways."""
    down, right = masks.diff(dim=1).abs(), masks.diff(dim=2).abs()
    return down.pow(power).mean((1, 2)) + right.pow(power).mean((1, 2))

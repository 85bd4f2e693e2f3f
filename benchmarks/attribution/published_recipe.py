"""Extremal masks by the recipe of the paper, one image per call: what our batched masks are measured against.

Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks" (2019), section 3,
as we know it: the numbers below were not checked against the text again. An auxiliary mask on a lattice ─▶ smooth
max-convolution ─▶ mask (H, W) ─▶ image blurred by so much as the mask says ─▶ classifier.
SGD climbs: the class's logit less a weight times the rank-based area term.

From the paper, lengths for images of 224 px and here scaled by side / 224: lattice of 7 px; smooth maximum over the
lattice of temperature 1/20, kernel of σ 21 px; blur of σ up to 20 px; SGD, momentum 0.9, rate 0.01, 800 steps; area
weight 300, doubled after a third and after two thirds of the steps. The last mask is the answer.

What the paper leaves open, and what is chosen here:
- The kernel has value 1 at 0 and falls with distance: a Gaussian, cut off at 2 σ. Beyond the border the outermost
  cells go on: with nothing there, a smooth maximum of equal cells is largest in the corners, and masks end up there.
- The lattice starts at ones and is clamped to [0, 1] after each step; bilinear interpolation brings it to the image.
- All pixels are equal at the start, so sorting would keep those that come first in memory. The first step wants the
  mean over all orders instead, the area everywhere; from then on the classifier's gradient has made a difference.
- The area term is the mean over pixels of the squared difference, so that its weight does not depend on their number.
- Blur between nothing and most is eight levels, spaced evenly, and linear interpolation between the two nearest.

A step costs little beyond the classifier's own forward and backward pass on one image (a quarter or less): of the
pyramid two levels a pixel are read, of the lattice the neighbours within the kernel, and the blurs are made once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.attribution.metrics import Classify, blur

__all__ = ["PAPER_SIDE", "Pyramid", "Recipe", "learn"]

PAPER_SIDE = 224


@dataclass(frozen=True)
class Recipe:
    """Settings; lengths in pixels of an image of `PAPER_SIDE`."""

    steps: int = 800
    rate: float = 0.01
    momentum: float = 0.9
    area_weight: float = 300.0
    cell: float = 7.0
    spread: float = 21.0
    """σ of the kernel."""
    cut: float = 2.0
    """Where the kernel ends, in σ."""
    temperature: float = 0.05
    blur: float = 20.0
    """Largest σ."""
    levels: int = 8


PUBLISHED = Recipe()


class Pyramid:
    """Images under ever less blur; masks say which level a pixel is read from: 1, the image; 0, the strongest blur.

    Args:
        images: (B, 3, H, W).
        settings: The blur.
    """

    def __init__(self, images: Tensor, settings: Recipe = PUBLISHED) -> None:
        strongest = settings.blur * min(images.shape[2:]) / PAPER_SIDE
        shares = [1 - level / (settings.levels - 1) for level in range(settings.levels)]
        blurred = [blur(images, strongest * share) if share else images for share in shares]
        self._levels = torch.stack(blurred, 1)  # (B, L, 3, H, W)

    def __call__(self, masks: Tensor) -> Tensor:
        """(B, 3, H, W) from masks (B, H, W) in [0, 1]."""
        position = masks * (self._levels.shape[1] - 1)
        lower = position.detach().floor().clamp(max=self._levels.shape[1] - 2)
        index = lower.long()[:, None, None].expand(-1, -1, *self._levels.shape[2:])  # (B, 1, 3, H, W)
        here, next_one = (self._levels.gather(1, index + more)[:, 0] for more in (0, 1))
        return here + (position - lower)[:, None] * (next_one - here)


def learn(classify: Classify, image: Tensor, label: int, area: float, settings: Recipe = PUBLISHED) -> Tensor:
    """The mask (H, W) of one image (3, H, W) that keeps most of the label's logit; 1 is kept.

    Args:
        classify: The classifier.
        image: (3, H, W) in [0, 1].
        label: The class.
        area: Share of the image that the mask should keep; what comes out is near it.
        settings: Of the recipe.
    """
    size = (image.shape[1], image.shape[2])
    pyramid = Pyramid(image[None], settings)
    cell = max(1.0, settings.cell * min(size) / PAPER_SIDE)
    lattice = image.new_ones(1, 1, *(round(side / cell) for side in size)).requires_grad_()
    kernel = _kernel(settings).to(image)
    optimizer = torch.optim.SGD([lattice], lr=settings.rate, momentum=settings.momentum)
    ideal = (torch.arange(size[0] * size[1]) >= round((1 - area) * size[0] * size[1])).to(image)
    weight = settings.area_weight
    for step in range(settings.steps):
        if step in (settings.steps // 3, 2 * settings.steps // 3):
            weight *= 2
        masks = _smooth(lattice, kernel, size, settings)
        logit = classify(pyramid(masks))[0, label]
        wanted = ideal if step else area
        area_term = (masks.flatten().sort().values - wanted).square().mean()
        optimizer.zero_grad()
        (weight * area_term - logit).backward()
        optimizer.step()
        with torch.no_grad():
            lattice.clamp_(0, 1)
    with torch.no_grad():
        return _smooth(lattice, kernel, size, settings)[0]


def _kernel(settings: Recipe) -> Tensor:
    """(n, n), n odd."""
    spread = settings.spread / settings.cell  # in cells
    reach = math.floor(settings.cut * spread)
    distance = torch.arange(-reach, reach + 1.0)
    return torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * spread**2))


def _smooth(lattice: Tensor, kernel: Tensor, size: tuple[int, int], settings: Recipe) -> Tensor:
    """Lattice (1, 1, h, w) → mask (1, H, W): smooth maximum over cells v of kernel(u - v) · lattice(v)."""
    wider = functional.pad(lattice, [kernel.shape[0] // 2] * 4, mode="replicate")
    neighbours = functional.unfold(wider, kernel.shape)  # (1, n·n, h·w)
    values = neighbours * kernel.flatten()[:, None]
    highest = (values * torch.softmax(values / settings.temperature, 1)).sum(1)
    return functional.interpolate(highest.view_as(lattice), size, mode="bilinear", align_corners=False)[:, 0]

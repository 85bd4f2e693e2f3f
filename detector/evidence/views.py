"""Small changes of an image under which a clean heatmap is stable and an attacked one is not.

Images (B, 3, H, W) in [0, 1] flow in; one changed batch a view flows out, again in [0, 1]. Noise is drawn once from a
fixed seed and shared by all images, so that an answer never depends on the neighbours in its batch.

Sources: Roth et al. 2019, "The Odds are Odd" (noise); Xu et al. 2018, "Feature Squeezing" (blur); Xie et al. 2018
(rescale and shift); Das et al. 2018, "SHIELD" (JPEG).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional

from detector.evidence.compression import compress
from detector.settings import ViewSettings

__all__ = ["CONSTANTS", "View", "ViewSettings", "make_views"]

SEED = 0
SHIFTS_PER_SIDE = 32
BLUR = (0.25, 0.5, 0.25)
CONSTANTS: dict[str, JsonValue] = {"view_seed": SEED, "view_shifts_per_side": SHIFTS_PER_SIDE, "view_blur": list(BLUR)}
"""What decides the views and is no setting; a bundle belongs to these."""

View = Callable[[Tensor], Tensor]


def make_views(settings: ViewSettings, size: tuple[int, int], device: torch.device | str = "cpu") -> dict[str, View]:
    """The views of `settings` for images of `size`, by name, in a fixed order.

    Args:
        settings: Which views.
        size: (H, W) of the images.
        device: Where the images will be.

    Returns:
        Name → function from (B, 3, H, W) in [0, 1] to the same shape and range.
    """
    views: list[View] = []
    generator = torch.Generator().manual_seed(SEED)
    for sigma in settings.noise:
        for _ in range(settings.noise_draws):
            pattern = torch.randn(1, 3, *size, generator=generator) * (sigma / 255)
            views.append(_add(pattern.to(device)))
    if settings.flip:
        views.append(lambda images: images.flip(-1))
    step = max(1, round(min(size) / SHIFTS_PER_SIDE))
    for down, right in settings.shifts:
        views.append(_shift(down * step, right * step))
    if settings.blur:
        views.append(_blur)
    views += [_rescale(factor) for factor in settings.rescale]
    views += [partial(compress, quality=quality) for quality in settings.jpeg]
    return dict(zip(settings.names, views, strict=True))


def _add(pattern: Tensor) -> View:
    return lambda images: (images + pattern).clamp(0, 1)


def _shift(down: int, right: int) -> View:
    margin = max(abs(down), abs(right))

    def view(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (margin, margin, margin, margin), mode="replicate")
        top, left = margin - down, margin - right
        return padded[..., top : top + height, left : left + width]

    return view


def _blur(images: Tensor) -> Tensor:
    taps = torch.tensor(BLUR, device=images.device, dtype=images.dtype)
    kernel = (taps[:, None] * taps[None, :]).expand(3, 1, 3, 3)
    return functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3).clamp(0, 1)


def _rescale(factor: float) -> View:
    def view(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        shrunk = functional.interpolate(images, size=small, mode="bilinear", align_corners=False, antialias=True)
        return functional.interpolate(shrunk, size=(height, width), mode="bilinear", align_corners=False).clamp(0, 1)

    return view

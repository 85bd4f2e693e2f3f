"""Masks of which one surely hides a patch, wherever it is: **image size and a patch's area** → `Covering`.

A patch is whatever fits into a square of `side` pixels along the axes, anywhere in the image. Windows of side
side + step − 1 stand `step` apart, down and across: a square whose top lies less than `step` below a window's top ends
in that window, so every square lies wholly in one of them (`tests/detector/test_covering.py` tries each place).

A window is filled with the colours *around* it, blurred into it: Gaussian means of the pixels outside, by distance.
Nothing that was in the window has any part in the covered image, to the last bit. A net that never saw masks bears this
better than a grey square or a mean colour (docs/results/patches.md).

Sources: Xiang, Mahloujifar & Mittal 2022, "PatchCleanser", section 3.2 (R-covering mask sets); Knutsson & Westin 1993,
"Normalized and differential convolution" (a blur of what is known).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.settings import PatchSettings

__all__ = ["Covering", "Window", "filled"]


SPREAD = 1 / 8
"""Standard deviation of the blur, in sides of a window."""


class Window(NamedTuple):
    """A rectangle of pixels, its bottom and right not among them."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Covering:
    """Windows of which at least one holds a patch.

    Attributes:
        area: Share of the image under the largest patch, as it was asked for.
        side: Of the square that it fits into, in pixels.
        rows: (top, bottom) of the windows.
        columns: (left, right) of them.
    """

    area: float
    side: int
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: tuple[int, int], settings: PatchSettings) -> Covering:
        """The covering of images (H, W).

        Raises:
            ConfigError: A window would hide a whole side of the image.
        """
        height, width = size
        side = max(1, math.ceil(math.sqrt(settings.area * height * width) - 1e-9))
        count = math.isqrt(settings.masks)
        found = cls(settings.area, side, _intervals(height, side, count), _intervals(width, side, count))
        tall, wide = (max(end - start for start, end in each) for each in (found.rows, found.columns))
        if tall >= height or wide >= width:
            raise ConfigError(
                f"patches: {settings.masks} masks for a patch of {side}×{side} pixels would each hide {tall}×{wide} of "
                f"{height}×{width}: take more masks or a smaller area"
            )
        return found

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """All of them, row by row."""
        return tuple(Window(top, left, bottom, right) for (top, bottom), (left, right) in self._places)

    @cached_property
    def around(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """Which windows hold a patch, for each place of it: such windows ─▶ the first (top, left) that they hold."""
        rows, columns = _holders(self.rows, self.side), _holders(self.columns, self.side)
        return {
            tuple(row * len(self.columns) + column for row, column in product(*held)): (rows[held[0]], columns[held[1]])
            for held in product(rows, columns)
        }

    def covered(self, images: Tensor, some: slice = slice(None)) -> Tensor:
        """(B, 3, H, W) → (B, n, 3, H, W): window i, of all or some, filled with what is around it."""
        return torch.stack([filled(images, window) for window in self.windows[some]], 1)

    @property
    def _places(self) -> product[tuple[tuple[int, int], tuple[int, int]]]:
        return product(self.rows, self.columns)


def _intervals(length: int, side: int, count: int) -> tuple[tuple[int, int], ...]:
    """At most `count` intervals of one length in [0, `length`) such that each of length `side` lies in one of them."""
    places = max(1, length - side + 1)
    step = math.ceil(places / count)
    long = min(side + step - 1, length)
    starts = (min(start, length - long) for start in range(0, places, step))
    return tuple((start, start + long) for start in starts)


def _holders(intervals: tuple[tuple[int, int], ...], side: int) -> dict[tuple[int, ...], int]:
    """Which of `intervals` hold an interval of length `side`, for each place of it ─▶ the first such place."""
    found: dict[tuple[int, ...], int] = {}
    for at in range(max(end for _, end in intervals) - side + 1):
        held = tuple(i for i, (start, end) in enumerate(intervals) if start <= at and at + side <= end)
        found.setdefault(held, at)
    return found


def filled(images: Tensor, window: Window) -> Tensor:
    """(B, 3, H, W), a window of each filled with what is around it."""
    rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
    known, outside = images.clone(), images.new_ones(images.shape[-2:])
    known[..., rows, columns] = 0  # exactly: a difference would still know, by rounding, what was there
    outside[rows, columns] = 0
    down, across = _weights(outside[:, 0], rows), _weights(outside[0], columns).T
    known[..., rows, columns] = (down @ known @ across) / (down @ outside @ across)
    return known


def _weights(side: Tensor, hole: slice) -> Tensor:
    """(length of the hole, length of the side): Gaussian weights by distance."""
    at = torch.arange(len(side), device=side.device, dtype=side.dtype)
    distance = (at[hole, None] - at) / (SPREAD * (hole.stop - hole.start))
    weights: Tensor = (-(distance**2) / 2).exp()
    return weights

"""Where a tensor within a net keeps its maps: **what a module answers ⇄ maps (B, D, h, w)**.

Convolutions answer (B, D, h, w); nets built of linear layers (B, h, w, D); transformers a sequence of tokens, (B, N, D)
or (N, B, D), of which h·w lie row by row on a grid and others (class, register, distillation tokens) before or after.
`candidates` lists what the shapes alone leave open; `places.py` asks the net which of them is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Axes", "Layout", "candidates"]

Axes: TypeAlias = Literal["NCHW", "NHWC", "NLC", "LNC"]
"""N: the images of the batch, C: channels, H and W: rows and columns, L: tokens."""

EXTRA = 8
EXTRA_SHARE = 1 / 3
"""Tokens beside the grid, at most: this many, or this share of the grid (learned prompts); as many again where the
net's convolutions have such maps."""


@dataclass(frozen=True)
class Layout:
    """Axes of an output, and for tokens their grid.

    Attributes:
        axes: In their order.
        side: (h, w) of the maps, for images of the classifier's input size.
        before: Tokens in front of the grid.
        after: Tokens behind it.
        rival: Nothing but the number of tokens suggests this grid: neither the images' shape nor a convolution.
    """

    axes: Axes
    side: tuple[int, int]
    before: int = 0
    after: int = 0
    rival: bool = field(default=False, compare=False)

    @property
    def tokens(self) -> int:
        """How many tokens there are; 0 where rows and columns have axes of their own."""
        return 0 if self.axes in ("NCHW", "NHWC") else self.before + self.side[0] * self.side[1] + self.after

    @property
    def channels(self) -> int:
        """The axis of them."""
        return 1 if self.axes == "NCHW" else -1

    def images_first(self, output: Tensor) -> Tensor:
        """`output` with the axis that counts images in front: a view."""
        return output.transpose(0, 1) if self.axes == "LNC" else output

    def on_grid(self, values: Tensor) -> Tensor:
        """(B, h, w) of what has the images in front and a number in the place of channels: a view."""
        height, width = self.side
        if not self.tokens:
            return values
        return values[:, self.before : self.before + height * width].reshape(len(values), height, width)

    def to_maps(self, output: Tensor) -> Tensor:
        """(B, D, h, w): a view."""
        if self.axes == "NCHW":
            return output
        if self.axes == "NHWC":
            return output.permute(0, 3, 1, 2)
        height, width = self.side
        tokens = self.images_first(output)[:, self.before : self.before + height * width]  # (B, h·w, D)
        return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], height, width)

    def back(self, maps: Tensor, output: Tensor) -> Tensor:
        """`output` with its maps replaced by (B, D, h, w); tokens beside the grid stay as they are."""
        if self.axes == "NCHW":
            return maps
        if self.axes == "NHWC":
            return maps.permute(0, 2, 3, 1)
        tokens = maps.flatten(2).transpose(1, 2)  # (B, h·w, D)
        if self.before or self.after:
            old = self.images_first(output)
            tokens = torch.cat([old[:, : self.before], tokens, old[:, old.shape[1] - self.after :]], 1)
        return tokens if self.axes == "NLC" else tokens.transpose(0, 1)

    def resized(self, output: Tensor, size: tuple[int, int], usual: tuple[int, int]) -> Layout | None:
        """The layout for images of `size` in place of `usual`; None where the tokens lie on no such grid."""
        if not self.tokens or (size == usual and self.images_first(output).shape[1] == self.tokens):
            return self
        count = self.images_first(output).shape[1] - self.before - self.after
        height = self.side[0] * size[0] / usual[0]
        width = self.side[1] * size[1] / usual[1]
        for h in range(max(1, int(height)), int(height) + 2):
            if count % h == 0 and abs(count // h - width) < 1:
                return replace(self, side=(h, count // h))
        return None


def candidates(
    shapes: Mapping[int, Sequence[int]], size: tuple[int, int], sides: frozenset[tuple[int, int]] = frozenset()
) -> list[Layout]:
    """Layouts that an output may have, the likelier first; maps of a single row or column only as NCHW.

    Args:
        shapes: Of the output, by the number of images. One axis must count them: window partitions, whose first axis
            counts windows, have no layout.
        size: (H, W) of the images.
        sides: (h, w) of maps of the net's convolutions: patches need not be square.
    """
    shape = tuple(next(iter(shapes.values())))
    batch = [axis for axis in range(len(shape)) if all(_counts(axis, shape, *other) for other in shapes.items())]
    if len(shape) == 4 and batch == [0]:
        _, first, second, last = shape
        found = [Layout("NCHW", (second, last))]
        fits = _fits((first, second), size) or (first, second) in sides
        return found + [Layout("NHWC", (first, second))] * (min(first, second) > 1 and fits)
    if len(shape) == 3 and batch in ([0], [1]):
        axes: Axes = "NLC" if batch == [0] else "LNC"
        return list(_grids(axes, shape[1 - batch[0]], size, sides))
    return []


def _counts(axis: int, shape: Sequence[int], images: int, other: Sequence[int]) -> bool:
    """Whether this axis has the number of images, and no other depends on it."""
    return len(other) == len(shape) and all(
        length == (images if index == axis else shape[index]) for index, length in enumerate(other)
    )


@lru_cache(maxsize=256)
def _grids(axes: Axes, count: int, size: tuple[int, int], sides: frozenset[tuple[int, int]]) -> tuple[Layout, ...]:
    """Those that `count` tokens may fill, and those of other shapes that the corners of an image do not tell apart."""
    expected = []
    for side in dict.fromkeys([*_shaped(count, size), *sorted(sides)]):
        places = side[0] * side[1]
        extra = count - places
        if min(side) > 1 and 0 <= extra <= max(EXTRA, places if side in sides else places * EXTRA_SHARE):
            expected += [
                Layout(axes, side, before, extra - before) for before in dict.fromkeys((extra, 0, min(extra, 1)))
            ]
    rivals = [replace(each, side=side, rival=True) for each in expected for side in _rivals(each.side)]
    return tuple(dict.fromkeys([*expected, *rivals]))


def _rivals(side: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Grids in whose rows several of these lie one after another, or in whose several rows one of these lies."""
    height, width = side
    for times in range(2, max(side) // 2 + 1):
        if height % times == 0 and height > times:
            yield height // times, width * times
        if width % times == 0 and width > times:
            yield height * times, width // times


def _shaped(count: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Sides of the images' shape with at most `count` places, the largest first."""
    for height in range(count // 2, 1, -1):
        exact = height * size[1] / size[0]
        slack = int(max(1, size[1] / size[0])) + 1
        for width in range(int(exact) + slack, max(2, int(exact) - slack) - 1, -1):
            if height * width <= count and _fits((height, width), size):
                yield height, width


def _fits(side: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a map of this side has the images' shape, give or take less than a row or column."""
    return abs(side[0] * size[1] - side[1] * size[0]) < max(size)

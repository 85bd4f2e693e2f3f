"""Do maps show the image? **An image, and copies of it changed at one place each** → where do the maps change most?

A true map changes most where its image changed: in early layers there and nowhere else, in deep ones more there than
elsewhere. A map whose rows are channels, whose rows and columns are swapped, or whose cells are windows or pairs of
tokens changes elsewhere. The places are the four corners: they tell rows from columns, and a map of 2×2 has no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier.layouts import Axes, Layout

__all__ = ["FITS", "FITS_ALONE", "IMAGES", "ROUNDS", "Reading", "decided", "mean", "placed", "read"]

ROUNDS = 2
"""Images to be looked at, one after another."""
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(Bottom?, right?)."""
IMAGES = 1 + len(CORNERS)
SHARE = 4
"""A corner is so many times smaller than the image, high and wide."""
FLOOR = 1e-3
"""Of the largest change: what is smaller counts as none."""
ASLEEP = 1e-5
"""Of the values themselves: changes that are smaller may be rounding."""
FITS = 0.25
"""`Reading.fit` of the right grid of tokens is 0.65 and more where the net has not mixed them, by chance 0.05 …"""
FITS_ALONE = 0.65
"""… and of tokens in another order on a grid that has the same corners 0.5."""
CLEAR = 0.5
"""Of a change's logarithm: what is more is no chance."""


def placed(size: tuple[int, int], turn: int) -> Tensor:
    """(5, 3, H, W) in [0, 1]: noise, and the same noise with one corner painted over."""
    generator = torch.Generator().manual_seed(turn)
    images = torch.rand(3, *size, generator=generator).repeat(IMAGES, 1, 1, 1)
    for image, corner in zip(images[1:], CORNERS, strict=True):
        part = image[:, *_corner(size, corner)]  # dark in the first image, of full contrast in the second
        part.copy_((part > 0.5).float() if turn % 2 else torch.zeros_like(part))
    return images


@dataclass(frozen=True)
class Reading:
    """How maps moved at each change: in logarithms, beyond what one would expect.

    Expected is what the change moves everywhere and what moves the position at any change: so neither a position that
    answers to everything nor one that hardly moves counts more than others.
    """

    corners: Tensor
    """(4, 4), by change and corner of the maps."""
    variety: float
    """Standard deviation over changes and positions: how much it matters which corner of the image changed."""
    fit: float
    """How well all positions, and not the corners alone, moved as the changed parts of the image lie: 1 is exactly so.

    A grid of half as many rows, each twice as long, has the same corners."""

    @property
    def contrast(self) -> float:
        """How much more the changed corners moved than the others."""
        others = (self.corners.sum() - self.corners.trace()) / (self.corners.numel() - len(CORNERS))
        return float(self.corners.diagonal().mean() - others)

    @property
    def follows(self) -> bool:
        """Whether each change moved its own corner the most, and each corner moved the most at its own change."""
        own = torch.arange(len(CORNERS))
        return bool((self.corners.argmax(1) == own).all() and (self.corners.argmax(0) == own).all())

    @property
    def margin(self) -> float:
        """By how much each corner moved more than the others did, and than at other changes; below 0: not all did."""
        own = self.corners.diagonal()
        others = self.corners - torch.diag(torch.full((len(CORNERS),), torch.inf))
        return float(torch.minimum(own - others.amax(0), own - others.amax(1)).amin())

    @property
    def contradicts(self) -> bool:
        """Whether changes moved other positions far more than their own corner."""
        elsewhere = float((self.corners.amax(1) - self.corners.diagonal()).amax())
        return elsewhere > CLEAR or (self.variety > CLEAR and self.contrast < self.variety)


def read(output: Tensor, layouts: Iterable[Layout]) -> dict[Layout, Reading | None]:
    """Readings of an output for the images that `placed` gives, by layout; None where nothing moves."""
    strengths: dict[Axes, tuple[Tensor, Tensor]] = {}
    found = {}
    for layout in layouts:
        if layout.axes not in strengths:
            strengths[layout.axes] = _strengths(layout.images_first(output.detach().float()), layout.channels)
        change, values = (layout.on_grid(each) for each in strengths[layout.axes])
        found[layout] = _reading(change, values)
    return found


def _strengths(output: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """How far each position of the four copies is from the image's, and how large the image's values are there."""
    change = torch.linalg.vector_norm(output[1:] - output[:1], dim=channels)
    return change, torch.linalg.vector_norm(output[:1], dim=channels)


def _reading(change: Tensor, values: Tensor) -> Reading | None:
    """Of (4, h, w) and (1, h, w)."""
    if not change.isfinite().all() or change.amax() <= ASLEEP * values.amax():
        return None
    moved = (change + FLOOR * change.amax()).log()
    moved = moved - moved.mean(0) - moved.mean((1, 2), keepdim=True) + moved.mean()
    side = (moved.shape[1], moved.shape[2])
    corners = torch.stack([moved[:, *_corner(side, corner)].mean((1, 2)) for corner in CORNERS], 1)
    parts = torch.stack([_covered(side, corner) for corner in CORNERS]).to(moved.device)  # (4, h, w)
    fit = torch.nn.functional.cosine_similarity(moved.flatten(1), parts.flatten(1)).mean()
    return Reading(corners.cpu(), float(moved.std(correction=0)), float(fit))


def mean(readings: Sequence[Reading]) -> Reading | None:
    """Of several rounds; None where there is none."""
    if not readings:
        return None
    corners = torch.stack([reading.corners for reading in readings]).mean(0)
    variety, fit = (sum(each) / len(readings) for each in zip(*((r.variety, r.fit) for r in readings), strict=True))
    return Reading(corners, variety, fit)


def decided(readings: Sequence[Reading]) -> bool:
    """Whether another round could hardly change what these layouts of one output tell.

    One is clear, or each is far from it, or moves alike everywhere.
    """
    return any(each.margin > CLEAR for each in readings) or all(
        each.margin < -2 * CLEAR or (each.variety < CLEAR / 2 and abs(each.margin) < CLEAR / 2) for each in readings
    )


def _corner(side: tuple[int, int], corner: tuple[int, int]) -> tuple[slice, slice]:
    """A quarter of both sides, one cell at least."""
    rows, columns = (
        slice(length - max(1, length // SHARE), length) if last else slice(0, max(1, length // SHARE))
        for length, last in zip(side, corner, strict=True)
    )
    return rows, columns


def _covered(side: tuple[int, int], corner: tuple[int, int]) -> Tensor:
    """(h, w): the share of each cell that a changed corner covers."""
    rows, columns = ((length / SHARE - torch.arange(length)).clamp(0, 1) for length in side)
    return torch.outer(rows.flip(0) if corner[0] else rows, columns.flip(0) if corner[1] else columns)

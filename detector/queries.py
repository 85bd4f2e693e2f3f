"""The images of one caller, one after the other → **do they resemble each other as an attack's queries do?**

An attack that only asks sends one photograph again and again, a little changed each time; photographs differ. So each
image leaves a fingerprint: its brightness in 8 x 8 fields, without mean and contrast, and a hash of its pixels.

    image ─▶ Fingerprint ─▶ how many of the last N are *near*, not the same? ─▶ does it *return*? ─▶ suspicious or not

*Near*, the similarity of inputs: Chen et al. 2019, "Stateful Detection of Black-Box Adversarial Attacks", count the
nearest neighbours of a query in the same way. They learn the fingerprint; Li et al. 2022, "Blacklight", hash windows of
quantised pixels instead. *Returns*, the similarity of updates (Park et al. 2025, "Mind the Gap", compare successive
ones by their cosine): a search steps about one place, so its updates turn back (cosine below 0); a camera that moves
goes on. An exact repeat, such as a retry, is passed over. What attackers who know this can do: docs/results/queries.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENOUGH", "Fingerprint", "QuerySequence", "fingerprint"]

FIELDS = 8
"""A side of the grid of fields."""
RADIUS = 0.15
"""Largest distance of near images; of photographs, of which one is twice the other's negative, it is 2."""
FAINTEST = 4.0
"""Grey levels: an image of less contrast is taken as if it had as much, or noise would decide."""
NEAR = 5
"""So many near images make an image suspicious: more than a retry in another quality, or a short burst."""
ENOUGH = 30
"""So many suspicious images among the last N are an alert."""
FIRST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of an image."""

    look: NDArray[np.float32]
    """(64,) of length 1, or less where the image is faint."""
    pixels: int
    """Tells equal pixels; keyed by the process, so that nobody outside can make two images collide."""


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Of an image (H, W, 3)."""
    rows = _bands(image.reshape(len(image), -1)).reshape(FIELDS, -1, 3).sum(2)
    fields = _bands(rows.T) / (3 * np.outer(_sizes(image.shape[1]), _sizes(image.shape[0])))
    look = (fields - fields.mean()).ravel()
    look /= max(float(np.linalg.norm(look)), FAINTEST * FIELDS)
    return Fingerprint(look.astype(np.float32), hash(image.tobytes()))


def _edges(side: int) -> list[int]:
    return [side * field // FIELDS for field in range(FIELDS + 1)]


def _sizes(side: int) -> NDArray[np.int64]:
    return np.maximum(np.diff(_edges(side)), 1)


def _bands(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """Sums of the eight bands of rows of (n, m): (8, m)."""
    edges = _edges(len(values))
    small = values.dtype == np.uint8 and len(values) <= FIELDS * 256  # then 16 bits hold the sum, ten times as fast
    kind = np.uint16 if small else np.int64
    return np.stack([values[start:stop].sum(0, dtype=kind) for start, stop in pairwise(edges)]).astype(np.int64)


class QuerySequence:
    """The last images of one caller; it keeps 270 bytes of each. Not thread-safe.

    Args:
        window: How many images it remembers.
        moves: Whether images that move on, as video does, are excused.
    """

    def __init__(self, window: int, *, moves: bool = True) -> None:
        self._window, self._moves = window, moves
        rows = min(window, FIRST_ROWS)
        self._looks = np.zeros((rows, FIELDS * FIELDS), np.float32)
        self._squares = np.zeros(rows, np.float32)
        self._pixels = np.zeros(rows, np.int64)
        self._suspicious = np.zeros(rows, bool)
        self._seen = 0
        self.suspicious = 0
        """Images among the last `window` that are suspicious."""

    def __len__(self) -> int:
        """Images that it remembers."""
        return min(self._seen, self._window)

    @property
    def similarity(self) -> float:
        """From 0 to 1: 1 is an alert."""
        return min(1.0, self.suspicious / ENOUGH)

    def add(self, image: Fingerprint) -> bool:
        """Takes the next image in; one with the pixels of another is passed over.

        Returns:
            Whether it is suspicious.
        """
        known = len(self)
        if (self._pixels[:known] == image.pixels).any():
            return False
        square = float(image.look @ image.look)
        distances = self._squares[:known] + square - 2 * (self._looks[:known] @ image.look)
        near = np.flatnonzero(distances <= RADIUS**2)
        suspicious = len(near) >= NEAR and not (self._moves and self._goes_on(near, image.look))
        self._keep(image, square, suspicious)
        return suspicious

    def _goes_on(self, near: NDArray[np.int64], look: NDArray[np.float32]) -> bool:
        """Whether the way from the last near image to this one goes on in the direction from the one before to it."""
        ages = (self._seen - 1 - near) % self._window
        last, before = self._looks[near[np.argsort(ages)[:2]]]
        return float((look - last) @ (last - before)) > 0

    def _keep(self, image: Fingerprint, square: float, suspicious: bool) -> None:
        place = self._seen % self._window
        if place == len(self._looks):
            self._grow()
        self.suspicious += int(suspicious) - int(self._suspicious[place])
        self._looks[place], self._squares[place] = image.look, square
        self._pixels[place], self._suspicious[place] = image.pixels, suspicious
        self._seen += 1

    def _grow(self) -> None:
        """Doubles the rows: most callers send few images."""
        more = min(len(self._looks), self._window - len(self._looks))
        self._looks = np.pad(self._looks, ((0, more), (0, 0)))
        self._squares, self._pixels = np.pad(self._squares, (0, more)), np.pad(self._pixels, (0, more))
        self._suspicious = np.pad(self._suspicious, (0, more))

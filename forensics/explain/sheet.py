"""A matplotlib figure measured in inches from its top left corner: texts, pictures, boxes and bars go in.

Nothing here touches matplotlib's global state, so it may be used from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.drawing import FancyBboxPatch, Figure, Rectangle
from training.evaluation.pictures import PALETTE

__all__ = ["SOFT", "Sheet", "letters"]

SOFT = "#4a5566"
TRACK = "#f1f3f6"
POINT = 1 / 72
LETTER = 0.56  # mean width of a letter, in parts of its size


def letters(width: float, size: float) -> int:
    """How many letters of `size` points fit into `width` inches."""
    return int(width / (size * POINT * LETTER))


@dataclass(frozen=True)
class Sheet:
    """A figure of `width` × `height` inches."""

    width: float
    height: float
    figure: Figure

    @classmethod
    def blank(cls, width: float, height: float) -> Sheet:
        return cls(width, height, Figure(figsize=(width, height), facecolor=PALETTE["paper"]))

    def text(self, x: float, y: float, text: str, *, size: float = 9, color: str = SOFT, **style: Any) -> None:
        """Its top left corner at (x, y); names with $ are no formulas."""
        how: dict[str, Any] = {"ha": "left", "va": "top", "linespacing": 1.3, "parse_math": False, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, color=color, **how)

    def picture(self, x: float, y: float, side: float, picture: NDArray[np.uint8]) -> None:
        """At the top of a square cell, its shape kept."""
        axes = self.figure.add_axes(self._place(x, y, side, side))
        axes.set_axis_off()
        axes.set_anchor("N")
        axes.imshow(picture, interpolation="nearest", aspect="equal")

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        left, bottom, *size = self._place(x, y, width, height)
        transform = self.figure.transFigure
        self.figure.add_artist(Rectangle((left, bottom), *size, facecolor=color, transform=transform))

    def badge(self, x: float, y: float, text: str, color: str) -> None:
        """White words on a coloured box with round corners."""
        width, height = 1.55, 0.36
        axes = self.figure.add_axes(self._place(x, y, width, height), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        style = "round,pad=0,rounding_size=0.07"
        axes.add_patch(FancyBboxPatch((0, 0), width, height, boxstyle=style, facecolor=color, edgecolor="none"))
        axes.text(width / 2, height / 2, text, size=13, color="white", weight="bold", ha="center", va="center")

    def bars(self, x: float, y: float, width: float, shares: Sequence[tuple[str, float, str]], color: str) -> None:
        """A line for each name, share in [0, 1] and what to call the share."""
        for at, (name, share, said) in enumerate(shares):
            top = y + 0.25 * at
            self.box(x, top, width, 0.21, TRACK)
            self.box(x, top, width * share, 0.21, color)
            style: dict[str, Any] = {"size": 8.5, "color": PALETTE["ink"], "va": "center_baseline"}
            self.text(x + 0.08, top + 0.105, name, **style)
            self.text(x + width - 0.08, top + 0.105, said, ha="right", **style)

    def scale(self, x: float, y: float, colours: Sequence[str], text: str) -> None:
        """A legend: colours from low to high, and what they say."""
        step = 0.8 / len(colours)
        for at, colour in enumerate(colours):
            self.box(x + at * step, y, step * 1.05, 0.1, colour)
        self.text(x + 0.9, y + 0.05, text, size=8, color=PALETTE["muted"], va="center")

    def _place(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Left, bottom, width and height in parts of the figure."""
        return x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height

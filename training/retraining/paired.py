"""Two detectors on the same images: what each flagged in, the difference of their rates with a 95 % interval out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Z", "paired_difference", "wilson"]

Bools = NDArray[np.bool_]
Z = 1.959964
"""Of 95 %."""


@dataclass(frozen=True)
class Difference:
    """Second rate minus first, with its interval."""

    value: float
    low: float
    high: float


def paired_difference(first: Bools, second: Bools) -> Difference:
    """Share of images that the second flags less that of the first, one row per image.

    Newcombe 1998 ("Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 17, 2635-2650), method 10: Wilson intervals of both rates, put together with their
    correlation. Unlike a bootstrap it is no point where both say the same of every image.

    Args:
        first: (n,) what the first flags, n > 0.
        second: (n,) what the second flags.
    """
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    count = len(first)
    a, b = (both + only_second) / count, (both + only_first) / count
    (a_low, a_high), (b_low, b_high) = wilson(a, count), wilson(b, count)
    margins = (both + only_second) * (only_first + neither) * (both + only_first) * (only_second + neither)
    excess: float = both * neither - only_first * only_second
    if excess > 0:  # corrected for continuity
        excess = max(0.0, excess - count / 2)
    phi = excess / math.sqrt(margins) if margins else 0.0
    value = a - b
    down = (a - a_low) ** 2 - 2 * phi * (a - a_low) * (b_high - b) + (b_high - b) ** 2
    up = (b - b_low) ** 2 - 2 * phi * (b - b_low) * (a_high - a) + (a_high - a) ** 2
    return Difference(value, max(-1.0, value - math.sqrt(max(0.0, down))), min(1.0, value + math.sqrt(max(0.0, up))))


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` > 0."""
    middle = rate + Z**2 / (2 * count)
    half = Z * math.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)

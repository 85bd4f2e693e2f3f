"""What an attacker who knows that queries are compared does to each before it is sent: **a query in, another out**.

In the manner of OARS (Feng et al. 2023, "Stateful Defenses for Machine Learning Models Are Not Yet Secure Against
Black-box Attacks"): proposals are moved apart, at the price of noisier answers. OARS tunes itself by being refused.
Here nothing is refused, so most disguises come in fixed strengths; but the rule is public and has no key, so that an
attacker can run a copy of it at home, and has all the feedback there is before a query is sent (`Rehearsed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
from PIL import Image

from benchmarks.robustness.query_attacks import Floats, Picture
from detector.queries import ENOUGH, QuerySequence, fingerprint

__all__ = ["DISGUISES", "WINDOW", "Disguise", "Rehearsed"]

WINDOW = 1000

Disguise = Callable[[Picture, int, np.random.Generator], Picture]
"""A query, its number in the attack, chance → what is sent."""


def noise(grey_levels: float) -> Disguise:
    """Of every pixel."""
    return lambda query, _, rng: clipped(query + rng.normal(0, grey_levels, query.shape))


def shifted(share: float) -> Disguise:
    """Up to so much of the side, in each direction; edges are repeated."""

    def shift(query: Picture, _: int, rng: np.random.Generator) -> Picture:
        most = round(share * len(query))
        padded = np.pad(query, ((most, most), (most, most), (0, 0)), "edge")
        top, left = rng.integers(0, 2 * most + 1, 2)
        return padded[top : top + query.shape[0], left : left + query.shape[1]]

    return shift


def brightness(share: float) -> Disguise:
    """Contrast and brightness, up to so much."""

    def change(query: Picture, _: int, rng: np.random.Generator) -> Picture:
        return clipped(
            query.astype(np.float64) * (1 + rng.uniform(-share, share)) + 255 * rng.uniform(-share, share) / 2
        )

    return change


def shaded(grey_levels: float) -> Disguise:
    """Light and shade of a quarter of the side, drawn anew for each query."""

    def shade(query: Picture, _: int, rng: np.random.Generator) -> Picture:
        return clipped(query + grey_levels * smooth(rng.normal(size=(4, 4)), query))

    return shade


def drifting(grey_levels: float, period: int = 120) -> Disguise:
    """A shade that comes and goes slowly, as if a camera moved."""

    def drift(query: Picture, number: int, _: np.random.Generator) -> Picture:
        ramp = np.add.outer(np.linspace(-1, 1, query.shape[0]), np.linspace(-1, 1, query.shape[1]))[..., None]
        return clipped(query + grey_levels * math.sin(2 * math.pi * number / period) * ramp)

    return drift


class Rehearsed:
    """Sent as it is while that raises no alert at home, then under the faintest shade that is not suspicious there.

    Args:
        strengths: Of the shade, in grey levels; where none is enough, the last one is sent.
    """

    def __init__(self, *strengths: float) -> None:
        self._strengths = strengths
        self._copy = QuerySequence(WINDOW, moves=False)  # without the excuse: whoever passes it passes with it, too

    def __call__(self, query: Picture, _: int, rng: np.random.Generator) -> Picture:
        sent = query
        for strength in self._strengths:
            if self._copy.suspicious < ENOUGH - 1 or not deepcopy(self._copy).add(fingerprint(sent)):
                break
            sent = clipped(query + strength * smooth(rng.normal(size=(4, 4)), query))
        self._copy.add(fingerprint(sent))
        return sent


def smooth(coarse: Floats, like: Picture) -> Floats:
    """(h, w) → (H, W, 1) of variance about 1."""
    size = like.shape[1], like.shape[0]
    large = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), float)
    return (large / large.std())[..., None]


def clipped(image: Floats) -> Picture:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


DISGUISES: dict[str, Disguise] = {
    "as they are": lambda query, *_: query,
    "noise, σ 8 grey levels": noise(8),
    "noise, σ 32": noise(32),
    "shifted, up to 6 %": shifted(0.0625),
    "shifted, up to 12 %": shifted(0.125),
    "brightness and contrast, 30 %": brightness(0.3),
    "shaded anew, σ 8": shaded(8),
    "shaded anew, σ 16": shaded(16),
    "shade that drifts, 48 levels": drifting(48),
    "shaded as a copy of the rule needs": Rehearsed(1, 1, 2, 2, 4, 4, 8, 8, 16, 16),
}

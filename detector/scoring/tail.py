"""The highest scores of clean images → a fitted **`Tail`** → an *estimate* of how rare a higher score is.

n clean images promise nothing below 1/(n + 1): of all scores above theirs a conformal p-value says the same. Above a
high threshold, scores of almost any law follow a generalized Pareto distribution (Pickands 1975; Balkema & de Haan
1974; Coles 2001, "An Introduction to Statistical Modeling of Extreme Values", ch. 4), so one that is fitted to the
highest twentieth goes on where counting ends. It extrapolates: nothing is promised, nothing is flagged by it.

Fitted by probability-weighted moments (Hosking & Wallis 1987, section 2.3). A shape below 0 would give scores an end,
beyond which the estimate is 0: it is raised to 0, so that estimates are rather too large than too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.errors import CalibrationError

__all__ = ["FEWEST_FOR_TAIL", "Tail", "TailEstimate"]

Floats = NDArray[np.float64]

FEWEST_FOR_TAIL = 200
SHARE = 0.05
"""Of the scores, the highest, that a tail is fitted to; 20 of them at least."""
FEWEST_EXCESSES = 20
DRAWS = 400
"""Of the parametric bootstrap: intervals, and what a good fit looks like."""
BAD_FIT = 0.01
"""Of samples of the fitted law itself, the share that fits as badly: below this the fit is refused."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TailEstimate:
    """How rare such a score is among clean images: an extrapolation, not a conformal p-value."""

    probability: float
    """At most 1/(n + 1): below that nothing was seen."""
    low: float
    """Of the 95 % interval, which covers the noise of the fit, not a tail of another shape."""
    high: float


@dataclass(frozen=True)
class Tail:
    """A generalized Pareto distribution of what scores exceed a threshold by.

    Attributes:
        count: Clean scores that it rests on.
        threshold: The highest score that it is not fitted to.
        excesses: Scores above it.
        shape: ξ ≥ 0; 0 is the exponential law.
        scale: σ > 0.
        drawn: (DRAWS, 3) shape, scale and share above the threshold of samples like this one.
    """

    count: int
    threshold: float
    excesses: int
    shape: float
    scale: float
    drawn: Floats

    @classmethod
    def fit(cls, scores: Floats) -> Tail:
        """Fit the tail of clean scores.

        Args:
            scores: (n,), in any order; finite.

        Raises:
            CalibrationError: Fewer than 200 scores, or their tail is not of this kind, or begins among images that the
                glance of a cascade cleared: their scores, below 0, are of other networks.
        """
        count = len(scores)
        if count < FEWEST_FOR_TAIL:
            raise CalibrationError(
                f"a tail estimate needs at least {FEWEST_FOR_TAIL} clean scores, got {count}: calibrate on more "
                "images, or do without (tail = false)"
            )
        ascending, most = np.sort(scores), max(FEWEST_EXCESSES, math.ceil(SHARE * count))
        threshold = float(ascending[-most - 1])
        excess = ascending[ascending > threshold] - threshold
        if len(excess) < FEWEST_EXCESSES:
            raise CalibrationError(
                f"a tail estimate needs {FEWEST_EXCESSES} different high scores, got {len(excess)} above "
                f"{threshold:g}, for many are equal: do without (tail = false)"
            )
        if threshold < 0:
            raise CalibrationError(
                f"a tail estimate needs more than {len(excess)} of {count} clean images to go on to the full look, got "
                f"{int((scores >= 0).sum())}: let [cascade] clear a smaller share, or do without (tail = false)"
            )
        shape, scale = (float(each) for each in _moments(excess))
        random = np.random.default_rng(0)  # the same scores give the same tail
        samples = np.sort(_excess(random.random((DRAWS, len(excess))), shape, scale), axis=-1)
        shapes, scales = _moments(samples)
        distance = _anderson_darling(excess, np.asarray(shape), np.asarray(scale))
        worse = float((_anderson_darling(samples, shapes, scales) >= distance).mean())
        if not scale > 0 or not math.isfinite(scale) or worse < BAD_FIT:
            raise CalibrationError(
                f"the {len(excess)} highest of {count} clean scores are no tail that can be extrapolated (of samples "
                f"of the fitted law {worse:.1%} fit as badly): do without (tail = false)"
            )
        shares = random.beta(len(excess) + 1, count - len(excess), DRAWS)
        return cls(count, threshold, len(excess), shape, scale, np.stack([shapes, scales, shares], axis=1))

    @classmethod
    def of(cls, scores: Floats) -> Tail | None:
        """As `fit`; None where it refuses."""
        try:
            return cls.fit(scores)
        except CalibrationError:
            return None

    def estimate(self, score: float) -> TailEstimate:
        """How rare a score is that is higher than all it rests on."""
        most, excess = 1 / (self.count + 1), np.asarray(max(0.0, score - self.threshold))
        here = self.excesses / self.count * float(_survival(excess, np.asarray(self.shape), np.asarray(self.scale)))
        there = self.drawn[:, 2] * _survival(excess, self.drawn[:, 0], self.drawn[:, 1])
        low, high = np.quantile(there, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        probability = min(here, most)
        return TailEstimate(probability, min(float(low), probability), max(float(high), probability))


def _moments(excess: Floats) -> tuple[Floats, Floats]:
    """Shape and scale of ascending excesses (..., k), by probability-weighted moments; a shape below 0 becomes 0."""
    count = excess.shape[-1]
    mean = excess.mean(axis=-1)
    weighted = (excess * (1 - (np.arange(1, count + 1) - 0.35) / count)).mean(axis=-1)
    spread = mean - 2 * weighted  # above 0: the larger an excess, the smaller its weight
    shape = 2 - mean / spread
    return np.maximum(shape, 0.0), np.where(shape < 0, mean, 2 * mean * weighted / spread)


def _survival(excess: Floats, shape: Floats, scale: Floats) -> Floats:
    """P(an excess is larger)."""
    heavy = np.where(shape > 0, shape, 1.0)
    found: Floats = np.where(shape > 0, (1 + heavy * excess / scale) ** (-1 / heavy), np.exp(-excess / scale))
    return found


def _excess(probability: Floats, shape: float, scale: float) -> Floats:
    """The excess that is exceeded with a probability."""
    if shape > 0:
        found: Floats = scale / shape * (probability**-shape - 1)
        return found
    return -scale * np.log(probability)


def _anderson_darling(excess: Floats, shape: Floats, scale: Floats) -> Floats:
    """Distance of ascending excesses (..., k) from the law, whose ends weigh most (Choulakian & Stephens 2001)."""
    count = excess.shape[-1]
    above = np.clip(_survival(excess, shape[..., None], scale[..., None]), 1e-300, 1 - 1e-16)
    weights = 2 * np.arange(1, count + 1) - 1
    found: Floats = -count - (weights * (np.log1p(-above) + np.log(above[..., ::-1]))).mean(axis=-1)
    return found

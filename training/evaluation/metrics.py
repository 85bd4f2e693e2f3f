"""Detection metrics with bootstrap intervals: scores and source image ids in, estimates out.

Higher score = more likely attacked. A threshold is read from clean *calibration* scores alone and is then held fixed,
so that a rate measured on test images owes nothing to them. Intervals are percentile bootstrap intervals (Efron &
Tibshirani 1993, ch. 13) that draw *source images*, not rows: an image and its attacked versions come and go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import DataError
from detector.scoring.calibration import rank_at

__all__ = ["FEW", "Bootstrap", "Estimate", "auroc", "flagged", "lowest", "mean_of", "roc_curve", "threshold_at"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEW = 30
"""A share of fewer images means little: its 95 % interval may be wider than ±18 %."""
BLOCK = 64  # resamples worked on at once: bounds memory at BLOCK x rows


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval. All three are NaN where there was nothing to count."""

    value: float
    low: float
    high: float
    count: int
    """Rows that the number rests on (of an AUROC: positives or negatives, whichever are fewer; of a mean: those of its
    smallest part)."""
    draws: Floats = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    """(R,) the number in every resample."""

    def as_dict(self) -> dict[str, float | int | None]:
        """The estimate as JSON: NaN, which JSON lacks, becomes null."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: None if math.isnan(x) else float(x) for name, x in numbers.items()}, "count": self.count}

    @classmethod
    def read(cls, found: Any) -> Estimate:
        """An estimate, or one as JSON: null becomes NaN.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(found, Estimate):
            return found
        try:
            value, low, high = (
                math.nan if found[name] is None else float(found[name]) for name in ("value", "low", "high")
            )
            return cls(value, low, high, int(found["count"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"expected value, low, high and count, got {found!r}") from error


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def auroc(positive: Floats, negative: Floats) -> float:
    """Probability that a positive scores above a negative, a tie counting one half; NaN when either is empty.

    Args:
        positive: (P,) scores of attacked images.
        negative: (N,) scores of images that were not attacked.
    """
    if positive.size == 0 or negative.size == 0:
        return math.nan
    below, up_to = _ranks(positive, np.sort(negative))
    return float((below + up_to).mean() / (2 * negative.size))


def threshold_at(calibration: Floats, rate: float) -> float:
    """The score that an image must exceed to be flagged at this false-positive rate.

    The rule of the detector, `rank_at`, for any number of scores. Infinity when there are too few for the rate.

    Raises:
        DataError: no calibration scores, or one that is not finite.
    """
    if calibration.size == 0 or not np.isfinite(calibration).all():
        raise DataError(f"a threshold needs finite clean calibration scores; got {calibration.size}, some not finite")
    rank = rank_at(rate, calibration.size)
    if rank < 1:
        return math.inf
    return float(np.sort(calibration)[-rank]) if rank <= calibration.size else -math.inf


def flagged(scores: Floats, threshold: float | Floats) -> Bools:
    """Which scores raise the alarm: those above the threshold, or each above its own; a tie stays silent."""
    found: Bools = scores > threshold
    return found


def mean_of(estimates: Sequence[Estimate], weights: Sequence[float] | None = None) -> Estimate:
    """Weighted mean of estimates of one `Bootstrap`; the interval is that of the means of each resample.

    Args:
        estimates: those without a value are left out.
        weights: one an estimate; all alike by default.
    """
    weights = weights or [1.0] * len(estimates)
    known = [(each, weight) for each, weight in zip(estimates, weights, strict=True) if not math.isnan(each.value)]
    if not known:
        return NOTHING
    shares = np.array([weight for _, weight in known]) / sum(weight for _, weight in known)
    value = sum(share * each.value for share, (each, _) in zip(shares, known, strict=True))
    draws = shares @ np.stack([each.draws for each, _ in known])
    return _interval(float(value), draws, min(each.count for each, _ in known))


def lowest(estimates: Sequence[Estimate]) -> Estimate:
    """The estimate of the smallest value, with its own interval."""
    return min((each for each in estimates if not math.isnan(each.value)), key=lambda each: each.value, default=NOTHING)


def roc_curve(positive: Floats, negative: Floats, points: int = 200) -> tuple[Floats, Floats]:
    """(false-positive rates, true-positive rates), at most `points` of each, close together where the rate is small."""
    if positive.size == 0 or negative.size == 0:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([positive, negative]))[::-1]])
    fpr = _share_at_or_above(negative, thresholds)
    tpr = _share_at_or_above(positive, thresholds)
    if fpr.size > points:
        wanted = np.concatenate([[0.0], np.geomspace(1 / negative.size, 1.0, points - 1)])
        kept = np.unique(np.searchsorted(fpr, wanted, side="right") - 1)
        fpr, tpr = fpr[kept], tpr[kept]
    return fpr, tpr


class Bootstrap:
    """Draws source images with replacement, the same draws for every number, so that intervals are comparable.

    Args:
        sources: ids of all source images of the evaluation; repeated ids are one image.
        resamples: how many draws.
        seed: of the draws.
    """

    def __init__(self, sources: Ints, *, resamples: int = 1000, seed: int = 0) -> None:
        self.sources = np.unique(sources)
        if self.sources.size == 0:
            raise DataError("a bootstrap needs at least one source image; got none")
        rng = np.random.default_rng(seed)
        size = self.sources.size
        # How often each source was drawn: Poisson(1)-like, so a byte holds it.
        draws = [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(resamples)]
        self.counts = np.minimum(np.stack(draws), 255).astype(np.uint8)  # (R, S)

    def rate(self, hits: Bools, sources: Ints) -> Estimate:
        """Share of rows that hit."""
        return self.mean(hits.astype(np.float64), sources)

    def mean(self, values: Floats, sources: Ints) -> Estimate:
        """Mean of the rows' values; `sources` names each row's source image."""
        if values.size == 0:
            return NOTHING
        at = self._positions(sources)
        totals = np.bincount(at, weights=values, minlength=self.sources.size)
        rows = np.bincount(at, minlength=self.sources.size).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0 in a draw that missed every row
            drawn = np.concatenate([(block @ totals) / (block @ rows) for block in self._blocks()])
        return _interval(float(values.mean()), drawn, values.size)

    def auroc(self, positive: Floats, positive_sources: Ints, negative: Floats, negative_sources: Ints) -> Estimate:
        """AUROC of positives (P,) against negatives (N,), each row with its source image."""
        if positive.size == 0 or negative.size == 0:
            return NOTHING
        order = np.argsort(negative, kind="stable")
        below, up_to = _ranks(positive, negative[order])
        pos_at, neg_at = self._positions(positive_sources), self._positions(negative_sources)[order]
        drawn = []
        for block in self._blocks():
            weights = block[:, pos_at]  # (r, P)
            mass = np.cumsum(np.pad(block[:, neg_at], ((0, 0), (1, 0))), axis=1)  # (r, N + 1): weight of the n lowest
            won = (weights * (mass[:, below] + mass[:, up_to])).sum(axis=1)
            with np.errstate(invalid="ignore"):
                drawn.append(won / (2 * weights.sum(axis=1) * mass[:, -1]))
        return _interval(auroc(positive, negative), np.concatenate(drawn), min(positive.size, negative.size))

    def _blocks(self) -> Iterator[Floats]:
        for start in range(0, len(self.counts), BLOCK):
            yield self.counts[start : start + BLOCK].astype(np.float64)

    def _positions(self, sources: Ints) -> Ints:
        at = np.searchsorted(self.sources, sources)
        known = np.take(self.sources, at, mode="clip") == sources
        if not known.all():
            raise DataError(f"source image {sources[~known][0]} is not among the {self.sources.size} resampled ones")
        return at


def _ranks(positive: Floats, negative_sorted: Floats) -> tuple[Ints, Ints]:
    """How many negatives lie below each positive, and how many at or below."""
    return (
        np.searchsorted(negative_sorted, positive, side="left"),
        np.searchsorted(negative_sorted, positive, side="right"),
    )


def _share_at_or_above(scores: Floats, thresholds: Floats) -> Floats:
    ordered = np.sort(scores)
    return 1.0 - np.searchsorted(ordered, thresholds, side="left") / scores.size


def _interval(value: float, drawn: Floats, count: int) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    if finite.size == 0:
        return Estimate(value, math.nan, math.nan, count, drawn)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Estimate(value, float(low), float(high), count, drawn)

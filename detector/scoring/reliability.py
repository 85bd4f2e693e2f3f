"""Can the prediction be relied on? Risks and whether predictions were right → `Reliability` → **promised error rates**.

A prediction is accepted where its `error_rate` is at most the rate that the caller bears. The promise: with confidence
95 % over the draw of the n calibration images, at most that share of accepted predictions is wrong, on images like
those. Fixed levels of risk, set on other images, are tested in a fixed order, each by the exact binomial test, so the
promise needs nothing but independent images (Angelopoulos, Bates, Candès, Jordan & Lei 2021, "Learn then Test", fixed
sequence testing; Geifman & El-Yaniv 2017; Clopper & Pearson 1934). Why not conformal risk control itself: ADR 25.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.errors import BundleDamagedError, CalibrationError
from detector.evidence import Evidence
from detector.scoring.risk import RiskHead, signs

__all__ = ["CONFIDENCE", "Reliability", "levels_of", "upper_bounds"]

CONFIDENCE = 0.95
LEVELS = 99
STARTS = (0.25, 0.5)
"""Shares of clean images that are accepted at the levels where a sequence of tests begins. With fewer accepted images
no small rate can be shown; with more, none is left where the classifier errs often."""
BISECTIONS = 40
WITHOUT_VIEWS = "without_views"
"""Name of a tensor that is there where the head does not read the views."""


@dataclass(frozen=True)
class Reliability:
    """A risk, and what may be promised of predictions up to it.

    Attributes:
        head: Tells the risk.
        levels: (L,) float64 ascending risks.
        error_rates: (L,) float64 in (0, 1], ascending: promised where all predictions up to this risk are accepted.
    """

    head: RiskHead
    levels: Tensor
    error_rates: Tensor

    @classmethod
    def fit(cls, head: RiskHead, levels: Tensor, risks: Tensor, wrong: Tensor) -> Reliability:
        """Calibrate.

        Args:
            head: Fitted on other images.
            levels: (L,) ascending risks, from other images.
            risks: (n,) of clean images, one of each photograph.
            wrong: (n,) whether the prediction was.

        Raises:
            CalibrationError: There is no image, or a risk is not finite.
        """
        if not len(risks) or not bool(risks.isfinite().all()):
            raise CalibrationError(
                f"reliability: expected finite risks of labelled clean images, got {len(risks)}, "
                f"{int((~risks.isfinite()).sum())} of them NaN or infinite"
            )
        below = risks.double()[None] <= levels[:, None]  # (L, n)
        accepted, errors = below.sum(1), (below & wrong.bool()).sum(1)
        miss = (1 - CONFIDENCE) / len(STARTS)  # shared among the sequences
        return cls(head, levels, _in_sequence(upper_bounds(errors, accepted, miss)))

    @property
    def smallest_rate(self) -> float:
        """The smallest error rate that can be promised; 1 where none can."""
        return float(self.error_rates[0])

    def error_rate(self, evidence: Evidence, attack_score: Tensor, origin: Tensor) -> Tensor:
        """(B,) float64 in (0, 1]: the smallest promised error rate at which each prediction is still accepted.

        It is 1 where none can be promised: among clean images nearly none looked as risky. Arguments as of `signs`.

        Raises:
            BundleDamagedError: The head was fitted to other evidence.
        """
        try:
            found = signs(evidence, attack_score, origin, views=self.head.views)
        except KeyError as error:
            raise BundleDamagedError(
                f"the bundle's reliability reads {error}, which an image lacks that a cascade may clear: train the "
                "bundle again"
            ) from error
        if found.shape[1] != len(self.head.mean):
            raise BundleDamagedError(
                f"the bundle's reliability reads {len(self.head.mean)} signs, its evidence has {found.shape[1]}: "
                "train the bundle again"
            )
        return self.of_risk(self.head(found))

    def of_risk(self, risks: Tensor) -> Tensor:
        """As `error_rate`, of risks that are known."""
        at = torch.searchsorted(self.levels, risks.double().contiguous())  # the first level that is not below
        rates = torch.cat([self.error_rates, torch.ones(1, dtype=torch.float64)])
        return rates[at]

    def tensors(self) -> dict[str, Tensor]:
        """For a bundle; one of before knows no head but that which reads the views."""
        found = {
            "mean": self.head.mean,
            "scale": self.head.scale,
            "weights": self.head.weights,
            "levels": self.levels,
            "error_rates": self.error_rates,
        }
        return found if self.head.views else {**found, WITHOUT_VIEWS: torch.ones(1)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Reliability:
        """The inverse.

        Raises:
            BundleDamagedError: They are no such tensors.
        """
        try:
            mean, scale, weights = (tensors[name].double() for name in ("mean", "scale", "weights"))
            levels, rates = (tensors[name].double() for name in ("levels", "error_rates"))
        except KeyError as error:
            raise BundleDamagedError(f"the bundle's reliability lacks {error}: train the bundle again") from error
        finite = all(bool(each.isfinite().all()) for each in (mean, scale, weights, levels, rates))
        if (
            not finite
            or {each.ndim for each in (mean, scale, weights, levels, rates)} != {1}
            or not len(mean) == len(scale) == len(weights) - 1
            or not len(levels) == len(rates) > 0
            or bool((levels.diff() <= 0).any() | (rates.diff() < 0).any())
            or not 0 < float(rates[0]) <= float(rates[-1]) <= 1
        ):
            raise BundleDamagedError(
                "the bundle's reliability is damaged: expected weights of each sign, and ascending levels with "
                "ascending rates in (0, 1]; train the bundle again"
            )
        return cls(RiskHead(mean, scale, weights, views=WITHOUT_VIEWS not in tensors), levels, rates)


def levels_of(risks: Tensor) -> Tensor:
    """(L,) levels: percentiles of the risks (N,) of clean images that calibrate nothing."""
    shares = torch.arange(1, LEVELS + 1, dtype=torch.float64) / (LEVELS + 1)
    ordered = risks.double().sort().values
    levels: Tensor = torch.unique(ordered[(shares * (len(ordered) - 1)).round().long()])
    return levels


def upper_bounds(wrong: Tensor, accepted: Tensor, miss: float) -> Tensor:
    """(L,) float64: the largest error rates that so few wrong ones among the accepted do not rule out.

    For a true rate r, P(bound < r) ≤ miss: exact binomial (Clopper & Pearson 1934). 1 where nothing right was accepted.

    Args:
        wrong: (L,) whole numbers.
        accepted: (L,) whole numbers, at least as large.
        miss: How often the bound may be too small.
    """
    errors, total = wrong.double()[:, None], accepted.double()[:, None]
    counts = torch.arange(int(wrong.max()) + 1, dtype=torch.float64)[None]
    ways = torch.lgamma(total + 1) - torch.lgamma(counts + 1) - torch.lgamma((total - counts).clamp_min(0) + 1)
    ways = torch.where(counts <= errors, ways, -torch.inf)  # (L, most + 1)
    low, high = torch.zeros_like(total), torch.ones_like(total)
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        at_most = (ways + counts * rate.log() + (total - counts) * torch.log1p(-rate)).logsumexp(1, keepdim=True).exp()
        low, high = torch.where(at_most > miss, rate, low), torch.where(at_most > miss, high, rate)
    return torch.where(errors >= total, 1.0, high)[:, 0]


def _in_sequence(bounds: Tensor) -> Tensor:
    """Bounds of levels → rates: each sequence goes up from its start, and ends at the first level above the rate."""
    rates = torch.ones_like(bounds)
    for share in STARTS:
        start = min(round(share * len(bounds)), len(bounds) - 1)
        rates[start:] = torch.minimum(rates[start:], bounds[start:].cummax(0).values)
    return rates.flip(0).cummin(0).values.flip(0)  # whoever accepts a risk accepts every smaller one

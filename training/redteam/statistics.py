"""Counts in, numbers with 95 % intervals out: shares (Wilson), and costs of one success (a bootstrap over images)."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from training.evaluation.metrics import Estimate
from training.retraining.paired import wilson

__all__ = ["cost", "share", "share_of"]

RESAMPLES = 1000


def share(hits: int, count: int) -> Estimate:
    """`hits` of `count`, with Wilson's interval; nothing of nothing."""
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(hits / count, *wilson(hits / count, count), count)


def share_of(hits: Tensor) -> Estimate:
    """The share of (N,) bool."""
    return share(int(hits.sum()), len(hits))


def cost(spent: Tensor, success: Tensor) -> Estimate:
    """What one success costs: all that was spent on N images, by the successes among them.

    NaN where there is none; a bound is NaN where too many draws have none.

    Args:
        spent: (N,) on each image, whether it succeeded or not.
        success: (N,) bool.
    """
    each, hit = spent.double().numpy(), success.double().numpy()
    if not len(each) or not hit.sum():
        return Estimate(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(0).integers(0, len(each), (RESAMPLES, len(each)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = each[draws].sum(1) / hit[draws].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5], method="nearest")
    bounds = [float(bound) if math.isfinite(bound) else math.nan for bound in (low, high)]
    return Estimate(float(each.sum() / hit.sum()), bounds[0], bounds[1], int(hit.sum()))

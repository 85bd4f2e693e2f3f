"""The p-values of traffic → **does it still look like the calibration images?**

Two answers, both O(1) an image. `log10_e_value`: evidence, gathered for as long as it takes, that the p-values are not
those of clean images. `flagged_share`: the share of recent images with p ≤ 1 % and p ≤ 5 %, to look at.

How: a sequential test of the hypotheses "at most F of all p-values are ≤ a" and "at most F are > 1 - a", for some
levels a. Each bets against its hypothesis at every image, as if the share's odds were some multiple of F's; the
capital of each bet is a supermartingale where the hypothesis is true (Vovk & Wang 2021, "E-values"; Ramdas et al.
2023, "Game-theoretic statistics and safe anytime-valid inference"). A Shiryaev-Roberts sum puts `HAZARD` of new
capital into each bet at every image, so that a change is found as quickly late as early, and the value falls again when
the traffic is itself again (Shin, Ramdas & Rinaldo 2024, "E-detectors").

All images share one calibration set of n images, which may be an unlucky one: of clean traffic not the share a, but a
share drawn from Beta(k, n + 1 - k), k = ⌊a (n + 1)⌋, has p ≤ a (Bates et al. 2023, section 2.2). So F is not a but the
1 - `UNLUCKY` quantile of that law. Without this, any alarm of this kind goes off on clean traffic that is long enough.

Promised: if clean traffic is independent draws from what the calibration images were drawn from, then for all but about
1 in 100 calibrations the chance that the value reaches 100 (log10: 2) within N images is at most N x `HAZARD` / 100:
1 % in 100,000 images, whenever one looks; mostly it is far less. Not promised: that a shift is found that leaves the
p-values uniform; that a share below F is found; anything where images are not independent, as the frames of a video or
one photograph sent a thousand times: that is unlike the calibration, and raises the alarm.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np

__all__ = ["ALARM", "RATES", "Drift"]

RATES = (0.01, 0.05)
"""False-positive rates whose flagged share is followed."""
SHARE_MEMORY = 1000
"""The flagged share is that of about so many last images."""
ALARM = 2.0
"""log10 of the e-value from which on traffic is held to be unlike the calibration."""

LEVELS = np.array([0.01, 0.05, 0.2, 0.5])
ODDS = np.array([2.0, 4.0, 16.0])
HAZARD = 1e-5
UNLUCKY = 1e-3
CAP = 1e6
"""Ends an alarm within some hundred clean images after its cause has gone."""


class Drift:
    """Follows the p-values of one detector's answers.

    Args:
        calibration_size: Clean images that the p-values are ranks among.
    """

    def __init__(self, calibration_size: int) -> None:
        self.calibration_size = calibration_size
        total = calibration_size + 1  # a p-value is one of 1/total … total/total
        ranks = np.floor(LEVELS * total + 1e-9)
        ranks = ranks[ranks >= 1]
        draws = np.random.default_rng(0).beta(ranks, total - ranks, (100_000, len(ranks)))
        most = np.quantile(draws, 1 - UNLUCKY, axis=0)[:, None]  # (levels, 1)
        bet = ODDS * most / (1 - most + ODDS * most)  # (levels, odds)
        won, lost = bet / most, (1 - bet) / (1 - most)
        low, high = (ranks + 0.5) / total, (total - ranks + 0.5) / total
        edges = np.sort(np.concatenate([low, high]))
        between = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2, [2.0]])  # a number from each interval
        hits = np.stack([between[:, None] < low, between[:, None] > high], axis=1)  # (intervals, 2, levels)
        self._edges: list[float] = edges.tolist()
        self._factors = list(np.where(hits[..., None], won, lost))  # by interval: (2, levels, odds)
        self._capital = np.full((2, len(ranks), len(ODDS)), HAZARD)
        self._images = 0
        self._shares = [0.0] * len(RATES)

    def observe(self, p_value: float) -> None:
        """Takes note of one answered image."""
        capital = self._capital
        capital += HAZARD
        capital *= self._factors[bisect_left(self._edges, p_value)]
        np.minimum(capital, CAP, out=capital)
        self._images += 1
        step = 1 / min(self._images, SHARE_MEMORY)
        for i, rate in enumerate(RATES):
            self._shares[i] += ((p_value <= rate) - self._shares[i]) * step

    @property
    def log10_e_value(self) -> float:
        """Between -5 and 6; from `ALARM` on, traffic is unlike the calibration."""
        return math.log10(max(float(self._capital.mean()), HAZARD))

    def flagged_share(self, rate: float) -> float:
        """Share of about the last 1,000 images with p ≤ `rate`, one of `RATES`; 0 before the first."""
        return self._shares[RATES.index(rate)]

"""The arithmetic of `load.py`: *arrivals, latencies, samples of a process* → **ratios, percentiles, floors**.

`sojourns` is a server without any overhead, the floor under what can be measured: with `limit` 1 it is the queue M/D/1,
with a larger one a server that takes all that waits, up to `limit`, in one batch (Bailey 1954).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cost", "Flatness", "flatness", "goodput", "percentile", "poisson", "sojourns", "tail"]

FIFTHS = 5


@dataclass(frozen=True)
class Cost:
    """What a batch of n takes: `fixed_s` + n x `image_s` seconds."""

    fixed_s: float
    image_s: float

    def __call__(self, images: int) -> float:
        return self.fixed_s + images * self.image_s


def poisson(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Arrival times in [0, `seconds`) of a Poisson process of `rate` per second."""
    generator = np.random.default_rng(seed)
    count = generator.poisson(rate * seconds)
    return np.sort(generator.uniform(0, seconds, count))


def sojourns(arrivals_s: Sequence[float], limit: int, cost: Callable[[int], float]) -> list[float]:
    """Seconds from each arrival to its answer on an ideal server: whenever it is free it takes up to `limit`."""
    found: list[float] = []
    free_s, first = 0.0, 0
    while first < len(arrivals_s):
        start_s = max(free_s, arrivals_s[first])
        last = min(first + limit, bisect_right(arrivals_s, start_s))
        free_s = start_s + cost(last - first)
        found.extend(free_s - arrivals_s[place] for place in range(first, last))
        first = last
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; infinity where there is none."""
    return float(np.quantile(values, share, method="higher")) if len(values) else float("inf")


def tail(latencies_s: Sequence[float]) -> float:
    """p99 / p50."""
    return percentile(latencies_s, 0.99) / percentile(latencies_s, 0.5)


def goodput(latencies_s: Sequence[float | None], deadline_s: float, seconds: float, capacity: float) -> float:
    """Answers in time per second as a share of `capacity`; None stands for a request without a verdict."""
    return sum(each is not None and each <= deadline_s for each in latencies_s) / seconds / capacity


@dataclass(frozen=True)
class Flatness:
    """Samples in the order of time, without their first fifth."""

    growth: float
    """From the median of the second fifth to that of the last, as a share."""
    low: float
    high: float


def flatness(samples: Sequence[float]) -> Flatness:
    """How flat samples are once the first fifth, in which memory settles, is left out."""
    fifth = max(1, len(samples) // FIFTHS)
    settled = samples[fifth:] or samples
    return Flatness(median(settled[-fifth:]) / median(settled[:fifth]) - 1, min(settled), max(settled))

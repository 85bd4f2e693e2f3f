"""What a batch costs: *(seconds, images) of each batch* → **how long the next will take, how large they may be**.

    profile at warm-up T(1), T(2), T(4), … ─▶ limit: the smallest batch that is about the cheapest an image
    batches as they come ─▶ a running 95th percentile a size ─▶ predictions; a batch over the goal cuts the limit

The limit moves by additive increase, multiplicative decrease, as in Crankshaw et al., "Clipper: A Low-Latency Online
Prediction Serving System" (2017), section 4.3.1: slowly up, so that about one batch of a hundred is over the goal.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from statistics import median

import numpy as np

__all__ = ["LatencyModel"]

RECENT = 64  # batches that a size remembers
CHEAP = 1.02  # a size costs "about" the least an image within this factor
UP, DOWN = 0.0025, 0.75  # of the limit, for a batch in time and for one over the goal


class LatencyModel:
    """What the batches of one detector cost on one kind of device. Any thread may read and write.

    Args:
        profile: Seconds of a batch, by its size; sizes between are interpolated, larger ones extrapolated.
        goal_s: What a batch may take, but for one of a hundred.
    """

    def __init__(self, profile: Mapping[int, float], goal_s: float = math.inf) -> None:
        self._sizes = sorted(profile)
        self._goal_s = goal_s
        images = range(self._sizes[-1] + 1)  # tables, for each image asks several times
        self._size_of = [self._sizes[bisect_left(self._sizes, count)] for count in images]
        self._profile: list[float] = np.interp(images, self._sizes, [profile[size] for size in self._sizes]).tolist()
        self._recent: dict[int, deque[float]] = {size: deque([1.0], RECENT) for size in self._sizes}
        self._usual = dict.fromkeys(self._sizes, 1.0)
        self._slow = dict.fromkeys(self._sizes, 1.0)
        costs = {size: seconds / size for size, seconds in profile.items() if seconds <= goal_s or size == 1}
        least = min(costs.values())
        self._ceiling = min(size for size, cost in costs.items() if cost <= CHEAP * least)
        self._limit = float(self._ceiling)
        self._writing = threading.Lock()

    @property
    def limit(self) -> int:
        """Most images that a batch may hold now."""
        return int(self._limit)

    def observe(self, seconds: float, images: int) -> None:
        """Learns from a batch."""
        with self._writing:
            self._observe(seconds, images)

    def _observe(self, seconds: float, images: int) -> None:
        size = self._size(images)
        recent = self._recent[size]
        recent.append(seconds / max(self._profiled_s(images), 1e-9))
        ordered = sorted(recent)[:-1]  # without the slowest: one pause of the machine says nothing of the next batch
        self._usual[size], self._slow[size] = median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1]
        if seconds > self._goal_s:
            self._limit = max(1.0, DOWN * min(self._limit, images))
        elif images >= self.limit:
            self._limit = min(self._limit * (1 + UP), self._ceiling)

    def out_of_memory(self, images: int) -> None:
        """Learns that so many images were too many: never again more than half."""
        self._ceiling = max(1, images // 2)
        self._limit = min(self._limit, self._ceiling)

    def usual_s(self, images: int) -> float:
        """Seconds of a batch, as a rule."""
        return self._profiled_s(images) * self._usual[self._size(images)]

    def slow_s(self, images: int) -> float:
        """Seconds within which 95 of 100 batches of this size end."""
        return self._profiled_s(images) * self._slow[self._size(images)]

    def finish_s(self, images: int, more: int = 0) -> float:
        """Seconds until so many images are done, 95 times of 100, where so many more may join their last batch."""
        before, last = divmod(images - 1, self.limit)
        return before * self.usual_s(self.limit) + self.slow_s(min(last + 1 + more, self.limit))

    def _size(self, images: int) -> int:
        return self._size_of[images] if images < len(self._size_of) else self._sizes[-1]

    def _profiled_s(self, images: int) -> float:
        return self._profile[images] if images < len(self._profile) else self._profile[-1] * images / self._sizes[-1]

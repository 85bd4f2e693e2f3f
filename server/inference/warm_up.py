"""A detector → **its pace**, first-use costs paid."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

import torch

from detector.detector import Detector
from server.inference.latency_model import Pace

__all__ = ["Warm", "warm_up"]

log = logging.getLogger("heatward.engine")

ROUNDS, ENOUGH_S = 3, 0.1
SHORTEST_S = 0.0002  # below it, anything may come between


@dataclass(frozen=True, eq=False)
class Warm:
    """A detector that is ready to serve."""

    detectors: tuple[Detector, ...]
    """The same one on each device, in the order of the engines."""
    pace: Pace
    """Of the first device; the others are taken to be like it."""


def warm_up(detector: Detector, max_batch: int, goal_s: float) -> Pace:
    """Judges grey images in batches of 1, 2, 4, …, `max_batch`, the first use untimed.

    It ends with a batch that takes longer than `goal_s`, or more memory than there is. Of each size the fastest batch
    counts, out of several rounds: whatever slows the machine for a moment meets all sizes alike. Runs on any thread.
    """
    profile: dict[int, float] = {}
    detector.warm_up([1])
    for size in sorted({*(1 << power for power in range(max_batch.bit_length())), max_batch}):
        seconds = _seconds(detector, size)
        if seconds > goal_s:  # the first of its size may cost more
            seconds = min(seconds, _seconds(detector, size))
        if seconds == math.inf:
            break
        profile[size] = seconds
        if seconds > goal_s:
            break
    started_s, rounds = time.monotonic(), 1
    while rounds < ROUNDS or time.monotonic() - started_s < ENOUGH_S:
        rounds += 1
        for size in profile:
            profile[size] = min(profile[size], _seconds(detector, size))
    pace = Pace(profile, goal_s)
    shown = {size: round(seconds * 1e3, 3) for size, seconds in profile.items()}
    log.info("warm", extra={"ms_by_batch": shown, "batch_limit": pace.limit})
    return pace


def _seconds(detector: Detector, size: int) -> float:
    """Of one batch; infinity where it takes more memory than there is."""
    images = torch.full((size, 3, *detector.classifier.input_size), 0.5)
    started_s = time.monotonic()
    try:
        detector.detect(images)
    except torch.OutOfMemoryError:
        if size == 1:
            raise
        torch.cuda.empty_cache()
        return math.inf
    return max(time.monotonic() - started_s, SHORTEST_S)

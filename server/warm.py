"""A detector → **its pace**, first-use costs paid."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch

from detector.detector import Detector
from server.pace import Pace

__all__ = ["Warm", "warm_up"]

log = logging.getLogger("heatward.engine")

REPEATS, ENOUGH_S = 3, 0.02


@dataclass(frozen=True, eq=False)
class Warm:
    """A detector that is ready to serve."""

    detectors: tuple[Detector, ...]
    """The same one on each device, in the order of the engines."""
    pace: Pace
    """Of the first device; the others are taken to be like it."""


def warm_up(detector: Detector, max_batch: int, goal_s: float) -> Pace:
    """Judges grey images in batches of 1, 2, 4, …, `max_batch`, the first use untimed.

    It ends with a batch that takes longer than `goal_s`, or more memory than there is. Runs on any thread.
    """
    sizes = sorted({*(1 << power for power in range(max_batch.bit_length())), max_batch})
    profile: dict[int, float] = {}
    detector.warm_up([1])
    for size in sizes:
        try:
            profile[size] = _seconds(detector, size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            break
        if profile[size] > goal_s:
            break
    pace = Pace(profile, goal_s)
    shown = {size: round(seconds * 1e3, 3) for size, seconds in profile.items()}
    log.info("warm", extra={"ms_by_batch": shown, "batch_limit": pace.limit})
    return pace


def _seconds(detector: Detector, size: int) -> float:
    """The fastest of some batches; of many where they are short, since anything may come between."""
    images = torch.full((size, 3, *detector.classifier.input_size), 0.5)
    taken: list[float] = []
    while len(taken) < REPEATS or sum(taken) < ENOUGH_S:
        started_s = time.monotonic()
        detector.detect(images)
        taken.append(max(time.monotonic() - started_s, ENOUGH_S / 100))
    return min(taken)

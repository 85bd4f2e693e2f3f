"""A detector → **a warm one**: first-use costs paid, and its pace known."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch

from detector.detector import Detector
from server.pace import Pace

__all__ = ["Warm", "warm_up"]

log = logging.getLogger("heatward.engine")

REPEATS = 3


@dataclass(frozen=True, eq=False)
class Warm:
    """A detector that is ready to serve."""

    detector: Detector
    pace: Pace


def warm_up(detector: Detector, max_batch: int, goal_s: float) -> Warm:
    """Judges grey images in batches of 1, 2, 4, …, `max_batch`, until a batch takes longer than `goal_s`.

    Runs on any thread; each size is judged once for first-use costs and then timed.
    """
    sizes = sorted({*(1 << power for power in range(max_batch.bit_length())), max_batch})
    profile: dict[int, float] = {}
    detector.warm_up([1])
    for size in sizes:
        profile[size] = min(_seconds(detector, size) for _ in range(REPEATS))
        if profile[size] > goal_s:
            break
    pace = Pace(profile, goal_s)
    shown = {size: round(seconds * 1e3, 3) for size, seconds in profile.items()}
    log.info("warm", extra={"ms_by_batch": shown, "batch_limit": pace.limit})
    return Warm(detector, pace)


def _seconds(detector: Detector, size: int) -> float:
    images = torch.full((size, 3, *detector.classifier.input_size), 0.5)
    started_s = time.monotonic()
    detector.detect(images)
    return time.monotonic() - started_s

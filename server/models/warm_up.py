"""A bundle on disk → **detectors on every device, and their latency model**, first-use costs paid."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

import torch

from detector.detector import Detector
from server.config import ServerConfig
from server.models.latency_model import LatencyModel
from server.models.served_model import WarmDetectors

__all__ = ["aside", "load_soon", "warm_up"]

log = logging.getLogger("heatward.engine")

ROUNDS, ENOUGH_S = 3, 0.1
SHORTEST_S = 0.0002  # below it, anything may come between

T = TypeVar("T")


def load_soon(
    make: Callable[[str], Detector], devices: Sequence[str], config: ServerConfig
) -> asyncio.Future[WarmDetectors]:
    """Makes a detector for each device and warms it up, beside what serves. Call it on the event loop."""

    def work() -> WarmDetectors:
        torch.set_num_threads(config.threads)  # OpenMP keeps the number per thread: set it on each that computes
        detectors: list[Detector] = []
        latencies: list[LatencyModel] = []
        for device in devices:
            detectors.append(make(device))
            latencies.append(warm_up(detectors[-1], config.max_batch, config.batch_goal_ms / 1e3))
        return tuple(detectors), latencies[0]

    return aside(work)


def aside(work: Callable[[], T]) -> asyncio.Future[T]:
    """Works on a thread of its own, which the end of the process does not wait for. Call it on the event loop."""
    done: Future[T] = Future()

    def run() -> None:
        with suppress(InvalidStateError):  # nobody waits for it any more
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    threading.Thread(target=run, name="heatward-load", daemon=True).start()
    return asyncio.wrap_future(done)


def warm_up(detector: Detector, max_batch: int, goal_s: float) -> LatencyModel:
    """Judges grey images in batches of 1, 2, 4, …, `max_batch`, the first use untimed.

    It ends with a batch that takes longer than `goal_s`, or more memory than there is. Of each size the fastest batch
    counts, out of several rounds: whatever slows the machine for a moment meets all sizes alike. A cascade clears none
    of them: that is the most a batch costs, and the latency model learns what others do. Runs on any thread.
    """
    profile: dict[int, float] = {}
    detector = detector.in_full()
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
    latency = LatencyModel(profile, goal_s)
    shown = {size: round(seconds * 1e3, 3) for size, seconds in profile.items()}
    log.info("warm", extra={"ms_by_batch": shown, "batch_limit": latency.limit})
    return latency


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

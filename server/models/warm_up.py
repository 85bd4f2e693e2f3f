"""A bundle on disk → **detectors on every device, and their latency model**, first-use costs paid."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import torch

from detector.detector import Detector
from server.models.latency_model import LatencyModel

__all__ = ["Loader", "Warm", "warm_up"]

log = logging.getLogger("heatward.engine")

ROUNDS, ENOUGH_S = 3, 0.1
SHORTEST_S = 0.0002  # below it, anything may come between

Warm = tuple[tuple[Detector, ...], LatencyModel]
"""The same detector on each device, and what its batches cost on the first."""


class Loader:
    """Loads detectors, and warms them up beside what serves.

    Args:
        devices: Where engines compute, in their order.
        threads: Torch threads on the CPU.
        max_batch: Most images in a batch.
        batch_goal_s: What a batch may take, but for one of a hundred.
    """

    def __init__(self, devices: Sequence[str], *, threads: int, max_batch: int, batch_goal_s: float) -> None:
        self._devices = devices
        self._threads = threads
        self._max_batch = max_batch
        self._batch_goal_s = batch_goal_s

    def load(self, make: Callable[[str], Detector]) -> Warm:
        """Makes a detector for each device and warms it up. Blocks; call it from a thread of its own."""
        torch.set_num_threads(self._threads)  # OpenMP keeps the number per thread: set it on each that computes
        detectors: list[Detector] = []
        latencies: list[LatencyModel] = []
        for device in self._devices:
            detectors.append(make(device))
            latencies.append(warm_up(detectors[-1], self._max_batch, self._batch_goal_s))
        return tuple(detectors), latencies[0]

    def load_soon(self, make: Callable[[str], Detector]) -> asyncio.Future[Warm]:
        """`load` on a thread of its own, which the end of the process does not wait for. Call it on the event loop."""
        loop = asyncio.get_running_loop()
        warm: asyncio.Future[Warm] = loop.create_future()

        def tell(result: Warm | BaseException) -> None:
            if warm.done():
                return
            if isinstance(result, BaseException):
                warm.set_exception(result)
                warm.exception()  # asked for here, so that asyncio does not warn where nobody waits
            else:
                warm.set_result(result)

        def work() -> None:
            try:
                result: Warm | BaseException = self.load(make)
            except BaseException as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever asked
                loop.call_soon_threadsafe(tell, result)

        threading.Thread(target=work, name="heatward-load", daemon=True).start()
        return warm


def warm_up(detector: Detector, max_batch: int, goal_s: float) -> LatencyModel:
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

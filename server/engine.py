"""The thread that owns the model: *batches of work* → **one answer for each piece of work**.

    take ─▶ detect ─▶ answer, but for works that wait for a second look ─▶ between two batches, one group of those ─┐
      ▲                                                                                                            │
      └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

Only this thread touches the detector, from loading to the last batch. A batch that fails is halved until the image at
fault stands alone, so that it fails by itself and its neighbours are answered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detector.detector import Detector, Verdict
from detector.errors import HeatwardError
from server.batcher import STOPPED, Answer, Batcher, Work
from server.errors import DetectionError, EngineStoppedError
from server.second_look import SecondLooks

__all__ = ["Engine", "detect_each"]

log = logging.getLogger("heatward.engine")


class Engine(threading.Thread):
    """Loads a detector, warms it up, then answers the batcher's work until the batcher is closed.

    Args:
        load: Makes the detector; runs on this thread.
        batcher: Where the work comes from.
        threads: Torch threads of the model on the CPU.
        thorough_batch: Most images in one second look.
        thorough_queue: Most images waiting for one; 0: there are none.
        on_batch: Told (seconds, images) of each batch; called on this thread.
        on_second_look: Told the seconds of each; called on this thread.
    """

    def __init__(
        self,
        load: Callable[[], Detector],
        batcher: Batcher,
        *,
        threads: int,
        thorough_batch: int = 4,
        thorough_queue: int = 64,
        on_batch: Callable[[float, int], None] = lambda seconds, images: None,
        on_second_look: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        super().__init__(name="heatward-engine", daemon=True)
        self._load = load
        self._batcher = batcher
        self._threads = threads
        self._thorough_batch = thorough_batch
        self._thorough_queue = thorough_queue
        self._on_batch = on_batch
        self._on_second_look = on_second_look
        self._second_looks: SecondLooks | None = None
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Detector] = self._loop.create_future()
        """The warm detector; an exception where it could not be loaded."""
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        """None after the batcher was closed and drained; else what ended the thread."""

    def hurry(self, until_s: float) -> None:
        """Has every work that waits for a second look answered by then. Call it from any thread."""
        if self._second_looks is not None:
            self._second_looks.hurry(until_s)

    def run(self) -> None:
        cause: BaseException | None = None
        taken: list[Work] = []
        try:
            torch.set_num_threads(self._threads)  # OpenMP keeps the number per thread: set it on the one that computes
            detector = self._load()
            detector.warm_up(sorted({1, self._batcher.max_batch}))
            second_looks = self._second_looks = self._second_looks_of(detector)
            second_looks.warm_up()
            self._loop.call_soon_threadsafe(self.ready.set_result, detector)
            while (taken := self._batcher.take(wait=not second_looks)) or second_looks:
                if taken:
                    self._answer(detector, second_looks, taken)
                second_looks.turn()
        except BaseException as error:
            cause = error
            if self._second_looks is not None:
                self._second_looks.give_up()
        self._batcher.close()
        self._loop.call_soon_threadsafe(self._end, cause, taken)

    def _second_looks_of(self, detector: Detector) -> SecondLooks:
        return SecondLooks(
            detector,
            self._deliver,
            lambda: self._batcher.queued,
            batch=self._thorough_batch,
            capacity=self._thorough_queue,
            on_group=self._on_second_look,
        )

    def _answer(self, detector: Detector, second_looks: SecondLooks, batch: list[Work]) -> None:
        started_s = time.monotonic()
        outcomes = detect_each(detector, [work.image for work in batch])
        compute_s = time.monotonic() - started_s
        self._batcher.observe(compute_s, len(batch))
        self._on_batch(compute_s, len(batch))
        second_looks.observe(compute_s, len(batch))
        answers = [
            outcome
            if isinstance(outcome, HeatwardError)
            else second_looks.admit(work, Answer(outcome, started_s - work.queued_s, compute_s, len(batch)))
            for work, outcome in zip(batch, outcomes, strict=True)
        ]
        self._deliver(batch, answers)

    def _deliver(self, batch: Sequence[Work], outcomes: Sequence[Answer | HeatwardError | None]) -> None:
        self._loop.call_soon_threadsafe(_deliver, batch, outcomes)

    def _end(self, cause: BaseException | None, taken: list[Work]) -> None:
        while queued := self._batcher.take():
            taken = taken + queued
        _deliver(taken, [EngineStoppedError(STOPPED) for _ in taken])
        if not self.ready.done():
            self.ready.set_exception(cause or EngineStoppedError(STOPPED))
            self.ready.exception()  # asked for here, so that asyncio does not warn where nobody waits
        if not self.stopped.done():
            self.stopped.set_result(cause)


def detect_each(detector: Detector, images: Sequence[Tensor]) -> list[Verdict | HeatwardError]:
    """Detects a batch; whatever fails is halved until the image at fault stands alone.

    Args:
        detector: Judges (B, 3, H, W).
        images: B images (3, H, W).

    Returns:
        B verdicts, or the error of the image in that place.
    """
    try:
        verdicts = detector.detect(torch.stack(list(images)))
        if len(verdicts) != len(images):
            raise DetectionError(f"the detector gave {len(verdicts)} verdicts for {len(images)} images")
        return list(verdicts)
    except Exception as error:
        if len(images) == 1:
            return [_as_ours(error)]
        log.warning("a batch failed and is halved", extra={"batch_size": len(images), "error": repr(error)})
    middle = len(images) // 2
    return detect_each(detector, images[:middle]) + detect_each(detector, images[middle:])


def _as_ours(error: Exception) -> HeatwardError:
    if isinstance(error, HeatwardError):
        return error
    log.error("the detector failed on an image", exc_info=error)
    return DetectionError("the detector failed on this image; the server's log says why")


def _deliver(batch: Sequence[Work], outcomes: Sequence[Answer | HeatwardError | None]) -> None:
    for work, outcome in zip(batch, outcomes, strict=True):
        if outcome is None or work.answer.done():
            continue
        if isinstance(outcome, Answer):
            work.answer.set_result(outcome)
        else:
            work.answer.set_exception(outcome)
            work.answer.exception()

"""A thread that computes: *batches of work* → **one answer for each piece of work**.

Each work names the detector that judges it, so that another can be loaded and warmed up beside the one that serves.
Once warm, only this thread touches it. A batch that fails is halved until the image at fault stands alone, so that it
fails by itself and its neighbours are answered; where the accelerator's memory ran out, later batches are smaller.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Detector, Verdict
from detector.errors import HeatwardError
from server.errors import DetectionError, EngineStoppedError
from server.inference.batcher import STOPPED, Batcher
from server.inference.request import Answer, Work
from server.inference.staging import Staging

__all__ = ["Engine", "detect_each"]

log = logging.getLogger("heatward.engine")


class Engine(threading.Thread):
    """Answers the batcher's work until the batcher is closed.

    Args:
        batcher: Where the work comes from.
        number: Of this engine, from 0: its place in `Warm.detectors`.
        device: Where its detectors compute.
        threads: Torch threads of the model on the CPU.
        on_batch: Told (seconds, images) of each batch; called on this thread.
    """

    def __init__(
        self,
        batcher: Batcher,
        number: int = 0,
        *,
        device: str = "cpu",
        threads: int,
        on_batch: Callable[[float, int], None] = lambda seconds, images: None,
    ) -> None:
        super().__init__(name=f"heatward-engine-{number}", daemon=True)
        self._batcher = batcher
        self._number = number
        self._staging = Staging(device)
        self._threads = threads
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        """None after the batcher was closed and drained; else what ended the thread."""

    def run(self) -> None:
        cause: BaseException | None = None
        taken: list[Work] = []
        try:
            torch.set_num_threads(self._threads)
            with self._staging.stream():
                while taken := self._batcher.take(self._number):
                    self._answer(taken)
        except BaseException as error:
            cause = error
        self._batcher.close()
        self._loop.call_soon_threadsafe(self._end, cause, taken)

    def _answer(self, batch: list[Work]) -> None:
        detector, pace = batch[0].warm.detectors[self._number], batch[0].warm.pace
        started_s = time.monotonic()
        outcomes = detect_each(detector, batch, self._staging.batch, pace.out_of_memory)
        compute_s = time.monotonic() - started_s
        pace.observe(compute_s, len(batch))
        self._on_batch(compute_s, len(batch))
        answers = [
            outcome
            if isinstance(outcome, HeatwardError)
            else Answer(outcome, started_s - work.queued_s, compute_s, len(batch))
            for work, outcome in zip(batch, outcomes, strict=True)
        ]
        self._loop.call_soon_threadsafe(_deliver, batch, answers)

    def _end(self, cause: BaseException | None, taken: list[Work]) -> None:
        while queued := self._batcher.take(self._number):
            taken = taken + queued
        _deliver(taken, [EngineStoppedError(STOPPED) for _ in taken])
        if not self.stopped.done():
            self.stopped.set_result(cause)


def detect_each(
    detector: Detector,
    works: Sequence[Work],
    batch: Callable[[Sequence[NDArray[np.uint8]]], Tensor],
    on_out_of_memory: Callable[[int], None],
) -> list[Verdict | HeatwardError]:
    """Detects a batch; whatever fails is halved until the image at fault stands alone.

    Args:
        detector: Judges (B, 3, H, W).
        works: B of them, with images (H, W, 3).
        batch: Makes one batch of images.
        on_out_of_memory: Told how many images were too many for the accelerator's memory.

    Returns:
        B verdicts, or the error of the image in that place.
    """
    try:
        verdicts = detector.detect(batch([work.image for work in works]))
        if len(verdicts) != len(works):
            raise DetectionError(f"the detector gave {len(verdicts)} verdicts for {len(works)} images")
        return list(verdicts)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            on_out_of_memory(len(works))
            torch.cuda.empty_cache()
        if len(works) == 1:
            return [_as_ours(error, works[0])]
        ids = [work.request_id for work in works]
        log.warning("a batch failed and is halved", extra={"request_ids": ids, "error": repr(error)})
    middle = len(works) // 2
    return [
        outcome
        for half in (works[:middle], works[middle:])
        for outcome in detect_each(detector, half, batch, on_out_of_memory)
    ]


def _as_ours(error: Exception, work: Work) -> HeatwardError:
    if isinstance(error, HeatwardError):
        return error
    log.error("the detector failed on an image", exc_info=error, extra={"request_id": work.request_id})
    return DetectionError("the detector failed on this image; the server's log says why")


def _deliver(batch: Sequence[Work], outcomes: Sequence[Answer | HeatwardError]) -> None:
    for work, outcome in zip(batch, outcomes, strict=True):
        if work.answer.done():
            continue
        if isinstance(outcome, Answer):
            work.answer.set_result(outcome)
        else:
            work.answer.set_exception(outcome)
            work.answer.exception()

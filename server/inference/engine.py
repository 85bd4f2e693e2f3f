"""A thread that computes: *batches of requests* → **an outcome for each request**.

Each request names the model that judges it, so that another can be loaded and warmed up beside the one that serves.
Once warm, only this thread touches it. A batch that fails is halved until the image at fault stands alone, so that it
fails by itself and its neighbours are answered; where the accelerator's memory ran out, later batches are smaller.
Where the server of a remote classifier is away, the whole batch has that for its outcome, at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Verdict
from detector.errors import ClassifierUnavailableError, HeatwardError
from server.errors import DetectionError, EngineStoppedError
from server.inference.batcher import STOPPED, Batcher
from server.inference.request import InferenceRequest, InferenceResult, Outcome
from server.inference.staging import Staging

__all__ = ["Engine", "detect_each"]

log = logging.getLogger("heatward.engine")


class Engine(threading.Thread):
    """Computes the batcher's requests until the batcher is closed.

    Args:
        batcher: Where the requests come from.
        number: Of this engine, from 0: its place in `ServedModel.detectors`.
        device: Where its detectors compute.
        threads: Torch threads of the model on the CPU.
        keep_evidence: Whether verdicts hold their evidence.
        deliver: Takes the outcomes of a batch; called on the event loop.
        on_batch: Told (seconds, images) of each batch; called on this thread.
    """

    def __init__(
        self,
        batcher: Batcher,
        number: int = 0,
        *,
        device: str = "cpu",
        threads: int,
        keep_evidence: bool = False,
        deliver: Callable[[Sequence[InferenceRequest], Sequence[Outcome]], None],
        on_batch: Callable[[float, int], None] = lambda seconds, images: None,
    ) -> None:
        super().__init__(name=f"heatward-engine-{number}", daemon=True)
        self._batcher = batcher
        self._number = number
        self._staging = Staging(device)
        self._threads = threads
        self._options: dict[str, Any] = {"keep_evidence": True} if keep_evidence else {}
        self._deliver = deliver
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        """None after the batcher was closed and drained; else what ended the thread."""

    def run(self) -> None:
        cause: BaseException | None = None
        taken: list[InferenceRequest] = []
        try:
            torch.set_num_threads(self._threads)
            with self._staging.stream():
                while taken := self._batcher.take(self._number):
                    self._compute(taken)
        except BaseException as error:
            cause = error
        self._batcher.close()
        self._loop.call_soon_threadsafe(self._end, cause, taken)

    def _compute(self, batch: list[InferenceRequest]) -> None:
        model = batch[0].model
        started_s = time.monotonic()
        detect = partial(model.detectors[self._number].detect, **self._options)
        verdicts = detect_each(detect, batch, self._staging.batch, model.latency.out_of_memory)
        compute_s = time.monotonic() - started_s
        model.latency.observe(compute_s, len(batch))
        self._on_batch(compute_s, len(batch))
        outcomes = [
            verdict
            if isinstance(verdict, HeatwardError)
            else InferenceResult(
                verdict,
                model,
                request.false_positive_rate,
                started_s - request.queued_s,
                request.decode_s,
                compute_s,
                len(batch),
                max_error_rate=request.max_error_rate,
            )
            for request, verdict in zip(batch, verdicts, strict=True)
        ]
        self._loop.call_soon_threadsafe(self._deliver, batch, outcomes)

    def _end(self, cause: BaseException | None, taken: list[InferenceRequest]) -> None:
        while queued := self._batcher.take(self._number):
            taken = taken + queued
        self._deliver(taken, [EngineStoppedError(STOPPED) for _ in taken])
        if not self.stopped.done():
            self.stopped.set_result(cause)


def detect_each(
    detect: Callable[[Tensor], Sequence[Verdict]],
    requests: Sequence[InferenceRequest],
    batch: Callable[[Sequence[NDArray[np.uint8]]], Tensor],
    on_out_of_memory: Callable[[int], None],
) -> list[Verdict | HeatwardError]:
    """Detects a batch; whatever fails is halved until the image at fault stands alone.

    Args:
        detect: Judges (B, 3, H, W).
        requests: B of them, with images (H, W, 3).
        batch: Makes one batch of images.
        on_out_of_memory: Told how many images were too many for the accelerator's memory.

    Returns:
        B verdicts, or the error of the image in that place.
    """
    try:
        verdicts = detect(batch([request.image for request in requests]))
        if len(verdicts) != len(requests):
            raise DetectionError(f"the detector gave {len(verdicts)} verdicts for {len(requests)} images")
        return list(verdicts)
    except Exception as error:
        if isinstance(error, ClassifierUnavailableError):  # no image is at fault, and each half would wait as long
            return [error] * len(requests)
        if isinstance(error, torch.OutOfMemoryError):
            on_out_of_memory(len(requests))
            torch.cuda.empty_cache()
        if len(requests) == 1:
            return [_as_ours(error, requests[0])]
        ids = [request.request_id for request in requests]
        log.warning("a batch failed and is halved", extra={"request_ids": ids, "error": repr(error)})
    middle = len(requests) // 2
    return [
        outcome
        for half in (requests[:middle], requests[middle:])
        for outcome in detect_each(detect, half, batch, on_out_of_memory)
    ]


def _as_ours(error: Exception, request: InferenceRequest) -> HeatwardError:
    if isinstance(error, HeatwardError):
        return error
    log.error("the detector failed on an image", exc_info=error, extra={"request_id": request.request_id})
    return DetectionError("the detector failed on this image; the server's log says why")

"""The one queue between the event loop and the engine thread.

    admit ─▶ (decode) ─▶ enqueue ─▶ [ queue ] ─▶ take, up to `max_batch` at once ─▶ engine
                  └── leave: cancelled, expired or refused work gives its place back

Work-conserving: a free engine takes whatever waits, at once, so batches grow exactly when the engine is busy. An image
holds one of `capacity` places from before it is decoded until the engine takes it; that bounds the memory of waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.detector import Verdict
from server.errors import EngineStoppedError, QueueFullError

__all__ = ["Answer", "Batcher", "Work"]

EMPTY = torch.empty(0)
STOPPED = "the engine has stopped: send the request to another server"


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict and where its time went, in seconds."""

    verdict: Verdict
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(eq=False, slots=True)
class Work:
    """One image on its way to the engine. Times are of `time.monotonic`."""

    expires_s: float
    answer: asyncio.Future[Answer]
    thorough: bool = False  # asked for a second look
    image: Tensor = EMPTY  # (3, H, W), once decoded
    queued_s: float = 0.0
    holds_place: bool = True


class Batcher:
    """A bounded queue of work, filled by the event loop and emptied by engine threads.

    Args:
        max_batch: Most images in one batch.
        capacity: Most images waiting, decoding ones included.
        linger_s: How long an idle engine waits for a batch to fill.
        on_drop: Told why work left unanswered ("expired", "cancelled"); called from any thread.
    """

    def __init__(
        self, *, max_batch: int, capacity: int, linger_s: float = 0.0, on_drop: Callable[[str], None] = lambda _: None
    ) -> None:
        self.max_batch = max_batch
        self._capacity = capacity
        self._linger_s = linger_s
        self._on_drop = on_drop
        self._changed = threading.Condition()
        self._queue: dict[Work, None] = {}  # in order of arrival; a dict, so that any work can leave at once
        self._places = 0
        self._closed = False
        self._image_s = 0.0

    @property
    def pending(self) -> int:
        """Images waiting, decoding ones included."""
        return self._places

    @property
    def queued(self) -> int:
        """Images decoded and waiting for the engine."""
        return len(self._queue)

    def admit(self, expires_s: float, *, thorough: bool = False) -> Work:
        """Takes a place for an image that is about to be decoded. Call it on the event loop.

        Raises:
            QueueFullError: Every place is taken.
            EngineStoppedError: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise EngineStoppedError(STOPPED)
            if self._places >= self._capacity:
                raise QueueFullError(
                    f"the queue is full: {self._places} images wait; retry later, or start more servers",
                    retry_after_s=min(max(self._places * self._image_s, 0.01), 10.0),
                )
            self._places += 1
        return Work(expires_s, asyncio.get_running_loop().create_future(), thorough)

    def enqueue(self, work: Work, image: Tensor) -> None:
        """Queues admitted work with its decoded image (3, H, W).

        Raises:
            EngineStoppedError: The queue was closed while the image was decoded.
        """
        work.image = image
        work.queued_s = time.monotonic()
        with self._changed:
            if self._closed:
                raise EngineStoppedError(STOPPED)
            self._queue[work] = None
            self._changed.notify()

    def leave(self, work: Work) -> None:
        """Gives back the place of work that nobody waits for any more; harmless where the engine has taken it."""
        with self._changed:
            if work in self._queue:
                del self._queue[work]
                self._on_drop("expired" if time.monotonic() >= work.expires_s else "cancelled")
            self._free(work)

    def take(self, *, wait: bool = True) -> list[Work]:
        """Blocks until there is work and returns the next batch; empty once the queue is closed and drained.

        Args:
            wait: False for an engine that has other work: what is queued now, be it nothing.
        """
        with self._changed:
            if not wait:
                return self._pop_live(time.monotonic())
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._linger_s:
                    self._changed.wait_for(self._is_full, self._linger_s)
                batch = self._pop_live(time.monotonic())
                if batch or (self._closed and not self._queue):
                    return batch

    def close(self) -> None:
        """Accepts no more work; `take` still hands out what is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def observe(self, seconds: float, images: int) -> None:
        """Learns the pace of the engine, from which refused callers are told when to come back."""
        pace = seconds / images
        self._image_s = pace if not self._image_s else 0.8 * self._image_s + 0.2 * pace

    def _is_full(self) -> bool:
        return self._closed or len(self._queue) >= self.max_batch

    def _pop_live(self, now_s: float) -> list[Work]:
        batch: list[Work] = []
        while self._queue and len(batch) < self.max_batch:
            work = next(iter(self._queue))
            del self._queue[work]
            self._free(work)
            if work.answer.done():
                self._on_drop("cancelled")
            elif now_s >= work.expires_s:
                self._on_drop("expired")  # whoever waits for it has a timer of its own
            else:
                batch.append(work)
        return batch

    def _free(self, work: Work) -> None:
        if work.holds_place:
            work.holds_place = False
            self._places -= 1

"""*Images that were answered* → **written or compared by a thread of their own**, so that no answer waits for it.

    event loop ─▶ a bounded queue ─▶ one thread, every second ─▶ what a subclass does, or a count of drops

It harms no answer: where the queue or the disk is full, or the place is gone, what should be written is dropped and
counted, and said once in the log. A crash loses at most what has not been written: a second's worth.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from detector.errors import BusyError, ConfigError
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult

__all__ = ["EVERY_S", "MOST", "REASONS", "Background", "Dropped", "Waiting"]

EVERY_S = 1.0
MOST, MOST_BYTES = 4096, 256 * 2**20
"""What may wait to be written."""
FULL = (errno.ENOSPC, errno.EDQUOT)

REASONS = ("queue_full", "disk_full", "unwritable", "locked", "defect")
Dropped = Callable[[str, int], None]
"""Told why, one of `REASONS`, so many were not written."""


class Waiting(NamedTuple):
    """An image that is to be written; what of it is made on the thread."""

    time_s: float
    request: InferenceRequest
    result: InferenceResult


class Background(Observer):
    """Writes what it is given; a subclass says what, and calls `start` once it is ready.

    Args:
        what: In the log: "records", "events".
        place: Where they go; None where they go nowhere.
        on_written: Told how many were written.
        on_dropped: Told why so many were not.
        every_s: How often it writes.
        most: Images that may wait.
        most_bytes: And how large they may be together.
    """

    def __init__(
        self,
        what: str,
        place: Path | None,
        on_written: Callable[[int], None],
        on_dropped: Dropped,
        *,
        every_s: float = EVERY_S,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._what, self._place = what, place
        self._on_written, self._on_dropped = on_written, on_dropped
        self._every_s, self._most, self._most_bytes = every_s, most, most_bytes
        self._log = logging.getLogger(f"heatward.{what}")
        self._changed = threading.Condition()
        self._queue: list[Any] = []
        self._queued_bytes = 0
        self._closing = False
        self._writing = threading.Lock()
        self._faults = set[str]()
        """What was said since the last time that all went well."""
        self._thread = threading.Thread(target=self._run, name=f"heatward-{what}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, request: InferenceRequest, result: InferenceResult, size: int) -> None:
        """Queues an image of so many bytes; called on the event loop."""
        self.put_any(Waiting(time.time(), request, result), size)

    def put_any(self, waiting: object, size: int) -> None:
        """Queues what a subclass can write; called on any thread."""
        with self._changed:
            full = len(self._queue) >= self._most or self._queued_bytes + size > self._most_bytes
            if not full:
                self._queue.append(waiting)
                self._queued_bytes += size
        if full:
            self._on_dropped("queue_full", 1)

    def close(self) -> None:
        """Writes what waits, and leaves the place to others. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(10 * EVERY_S)
        with self._writing:
            self._release()

    def flush(self) -> None:
        """Writes what waits, or drops it. Blocks."""
        with self._writing:
            with self._changed:
                batch, self._queue, self._queued_bytes = self._queue, [], 0
            written = bool(batch) and self._written(batch)
            if self._tidied() and written:
                self._faults.clear()

    def _write(self, batch: list[Any]) -> int:
        """Writes them all or raises; says how many there were that could be made."""
        raise NotImplementedError

    def _tidied(self) -> bool:
        """Does what is to be done every second, whether something came or not; says whether all went well."""
        return True

    def _begin(self) -> None:
        """Called first on the thread."""

    def _release(self) -> None:
        """Leaves the place to others."""

    def _written(self, batch: list[Any]) -> bool:
        try:
            count = self._write(batch)
        except Exception as error:
            reason = _reason(error)
            self._on_dropped(reason, len(batch))
            self._report(reason, f"{self._what} are dropped: {error}", error if reason == "defect" else None)
            return False
        if count < len(batch):
            self._on_dropped("defect", len(batch) - count)
        self._on_written(count)
        return True

    def _run(self) -> None:
        self._begin()
        closing = False
        while not closing:
            with self._changed:
                closing = self._changed.wait_for(lambda: self._closing, self._every_s)
            self.flush()

    def _report(self, fault: str, message: str, error: BaseException | None = None) -> None:
        """Into the log, once a fault: what a message says may differ each time, such as a file's name."""
        if fault not in self._faults:
            self._faults.add(fault)
            folder = {} if self._place is None else {"folder": str(self._place)}
            self._log.error(message, exc_info=error, extra=folder)


def _reason(error: Exception) -> str:
    """Why something is dropped, as the metric names it."""
    match error:
        case BusyError() | BlockingIOError():
            return "locked"
        case OSError() if error.errno in FULL:
            return "disk_full"
        case OSError() | ConfigError():
            return "unwritable"
    return "defect"

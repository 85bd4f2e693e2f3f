"""*Images that were answered* → **a sample of them, as records on disk**, and the labels that people give them.

    event loop ─▶ a bounded queue ─▶ one thread, every second ─▶ a shard (detector/records), or a count of drops

It harms no answer: where the queue or the disk is full, or the folder is gone, records are dropped and counted. A crash
loses at most what has not been written: a second's worth. It records nothing unless `record_folder` is set, and neither
images nor evidence unless `record_images` and `record_evidence` are.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from detector.errors import BusyError, ConfigError
from detector.lock import hold
from detector.records.reader import LABELS, RECORDS, RecordReader
from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder
from server.config import ServerConfig
from server.errors import RecordNotFoundError, RequestError, UnwritableError
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.row import to_record

__all__ = ["Recorder"]

log = logging.getLogger("heatward.records")

EVERY_S = 1.0
MOST, MOST_BYTES = 4096, 256 * 2**20
"""What may wait to be written."""
DAY_S = 86_400.0
NAMED = 5
FULL = (errno.ENOSPC, errno.EDQUOT)


class _Waiting(NamedTuple):
    """An image that is to be recorded; its row is made on the thread."""

    time_s: float
    request: InferenceRequest
    result: InferenceResult


class Recorder(Observer):
    """Records a sample of what is answered.

    Args:
        config: What to record, where, and how much.
        on_recorded: Told how many records were written.
        on_dropped: Told why so many were not: "queue_full", "disk_full", "unwritable", "locked", "defect".
    """

    def __init__(
        self, config: ServerConfig, on_recorded: Callable[[int], None], on_dropped: Callable[[str, int], None]
    ) -> None:
        self._config = config
        self._folder = config.record_folder or Path()
        self._on_recorded, self._on_dropped = on_recorded, on_dropped
        self._changed = threading.Condition()
        self._queue: list[_Waiting] = []
        self._queued_bytes = 0
        self._closing = False
        self._writing = threading.Lock()
        self._labelling = threading.Lock()
        self._shards: ShardFolder | None = None
        self._labels: ShardFolder | None = None
        self._held = ExitStack()
        """The folder's lock, once it is used."""
        self._faults = set[str]()
        """What was said since the last time that all went well."""
        self._thread = threading.Thread(target=self._run, name="heatward-record", daemon=True)
        self._thread.start()

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        """Queues the image, if it is drawn; called on the event loop."""
        if self._config.record_share < 1 and random.random() >= self._config.record_share:
            return
        size = request.size_bytes + sum(each.nbytes for each in (result.verdict.evidence or {}).values())
        with self._changed:
            full = len(self._queue) >= MOST or self._queued_bytes + size > MOST_BYTES
            if not full:
                self._queue.append(_Waiting(time.time(), request, result))
                self._queued_bytes += size
        if full:
            self._on_dropped("queue_full", 1)

    def close(self) -> None:
        """Writes what waits, and leaves the folder to others. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(10 * EVERY_S)
        with self._writing:
            self._held.close()

    def flush(self) -> None:
        """Writes what waits, or drops it. Blocks."""
        with self._writing:
            with self._changed:
                batch, self._queue, self._queued_bytes = self._queue, [], 0
            written = bool(batch) and self._written(batch)
            if self._tidied() and written:
                self._faults.clear()

    def _written(self, batch: list[_Waiting]) -> bool:
        try:
            rows = self._rows(batch)
            self._open().write(rows)
        except Exception as error:
            reason = _reason(error)
            self._on_dropped(reason, len(batch))
            self._report(reason, f"records are dropped: {error}", error if reason == "defect" else None)
            return False
        if len(rows) < len(batch):
            self._on_dropped("defect", len(batch) - len(rows))
        self._on_recorded(len(rows))
        return True

    def _tidied(self) -> bool:
        """Removes what is too old or too much, also where nothing comes, and where there is no room for more."""
        if not (self._folder / RECORDS).is_dir():
            return True
        try:
            shards = self._open()
            shards.remove_old(self._config.record_max_bytes, (self._config.record_max_age_days or 1e6) * DAY_S)
        except BusyError:  # whoever records into it removes them
            return True
        except (OSError, ConfigError) as error:
            self._report("old", f"old records cannot be removed: {error}")
            return False
        return True

    def label(self, name: str, truth: Truth, true_label: str, by: str) -> tuple[Label, bool]:
        """Keeps what somebody knows about a recorded image. Blocks; it is on the disk when this returns.

        Args:
            name: A record id, or a request id that one record has.
            truth: What is known.
            true_label: The class' name, where that is what is known.
            by: Who says so.

        Returns:
            The label, and whether it contradicts an earlier one.

        Raises:
            RecordNotFoundError: No such image was recorded, or it has been removed.
            RequestError: Several were recorded under this request id.
            UnwritableError: The label cannot be kept.
        """
        self.flush()
        with self._labelling:  # looking for the record may take seconds: images are recorded meanwhile
            try:
                with self._writing:
                    self._open()
                reader = RecordReader(self._folder)
                record_id = self._the_one(reader.find(name))
                earlier = [each for each in reader.all_labels() if each.record_id == record_id]
                label = Label(
                    record_id=record_id, truth=truth.value, true_label=true_label, by=by, time=datetime.now(UTC)
                )
                if self._labels is None:
                    self._labels = ShardFolder(self._folder / LABELS, schema_of(Label))
                self._labels.write([asdict(label)])
            except (OSError, BusyError, ConfigError) as error:
                raise UnwritableError(
                    f"the label cannot be kept: {getattr(error, 'strerror', None) or error}"
                ) from error
        return label, any(label.contradicts(each) for each in earlier)

    @staticmethod
    def _the_one(found: list[str]) -> str:
        if not found:
            raise RecordNotFoundError("no image of this id was recorded, or it was removed since")
        if len(found) > 1:
            some = ", ".join(found[:NAMED])
            raise RequestError("id", f"{len(found)} images were recorded under it: name one record: {some}")
        return found[0]

    def _run(self) -> None:
        pa.set_cpu_count(1)  # the other cores are the model's
        closing = False
        while not closing:
            with self._changed:
                closing = self._changed.wait_for(lambda: self._closing, EVERY_S)
            self.flush()

    def _open(self) -> ShardFolder:
        """The folder, made and locked where it is used first.

        Raises:
            OSError, ConfigError: It cannot be used.
            BusyError: Another server records into it.
        """
        if self._shards is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as held:
                held.enter_context(
                    hold(self._folder, what="record_folder", mend="give each server a folder of its own")
                )
                self._shards = ShardFolder(self._folder / RECORDS, schema_of(Record))
                self._held = held.pop_all()
        return self._shards

    def _rows(self, batch: list[_Waiting]) -> list[dict[str, Any]]:
        rows = []
        for waiting in batch:
            try:
                rows.append(asdict(to_record(*waiting, self._config)))
            except Exception as error:  # of one image; the others are recorded
                log.error("an image cannot be recorded", exc_info=error)
        return rows

    def _report(self, fault: str, message: str, error: BaseException | None = None) -> None:
        """Into the log, once a fault: what a message says may differ each time, such as a file's name."""
        if fault not in self._faults:
            self._faults.add(fault)
            log.error(message, exc_info=error, extra={"folder": str(self._folder)})


def _reason(error: Exception) -> str:
    """Why records are dropped, as the metric names it."""
    match error:
        case BusyError():
            return "locked"
        case OSError() if error.errno in FULL:
            return "disk_full"
        case OSError() | ConfigError():
            return "unwritable"
    return "defect"

"""*Images that were answered* → **a sample of them, as records on disk**, and the labels that people give them.

They are written as `background.py` says, a shard (detector/records) a second. It records nothing unless `record_folder`
is set, and neither images nor evidence unless `record_images` and `record_evidence` are.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from detector.errors import BusyError, ConfigError
from detector.lock import hold
from detector.records.reader import LABELS, RECORDS, RecordReader
from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder
from server.config import ServerConfig
from server.errors import RecordNotFoundError, RequestError, UnwritableError
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.background import EVERY_S, MOST, Background, Dropped, Waiting
from server.observers.row import to_record

__all__ = ["EVERY_S", "MOST", "Recorder"]

log = logging.getLogger("heatward.records")

DAY_S = 86_400.0
NAMED = 5


class Recorder(Background):
    """Records a sample of what is answered.

    Args:
        config: What to record, where, and how much.
        on_recorded: Told how many records were written.
        on_dropped: Told why so many were not.
    """

    WHAT: ClassVar[str] = "records"
    SETTING: ClassVar[str] = "record_folder"

    def __init__(self, config: ServerConfig, on_recorded: Callable[[int], None], on_dropped: Dropped) -> None:
        self._config = config
        self._folder = config.record_folder or Path()
        super().__init__(self.WHAT, self._folder, on_recorded, on_dropped, every_s=EVERY_S, most=MOST)
        self._labelling = threading.Lock()
        self._shards: ShardFolder | None = None
        self._labels: ShardFolder | None = None
        self._held = ExitStack()
        """The folder's lock, once it is used."""
        self.start()

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        """Queues the image, if it is drawn; called on the event loop."""
        if self._config.record_share < 1 and random.random() >= self._config.record_share:
            return
        evidence = sum(each.nbytes for each in (result.verdict.evidence or {}).values())
        self.put(request, result, request.size_bytes + evidence)

    def _release(self) -> None:
        self._held.close()

    def _begin(self) -> None:
        pa.set_cpu_count(1)  # the other cores are the model's
        there = next((each for each in (self._folder, *self._folder.parents) if os.path.exists(each)), Path())
        if not (there.is_dir() and os.access(there, os.W_OK)):  # said now: the first image may be long in coming
            self._report("unwritable", f"{self._what} will be dropped: {there} is no folder that may be written")

    def _write(self, batch: list[Waiting]) -> int:
        rows = self._rows(batch)
        self._open().write(rows)
        return len(rows)

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
            self._report("old", f"old {self._what} cannot be removed: {error}")
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

    def _open(self) -> ShardFolder:
        """The folder, made and locked where it is used first.

        Raises:
            OSError, ConfigError: It cannot be used.
            BusyError: Another server records into it.
        """
        if self._shards is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as held:
                mend = "give each server a folder of its own"
                held.enter_context(hold(self._folder, what=self.SETTING, mend=mend, lock=Recorder.SETTING))
                self._shards = ShardFolder(self._folder / RECORDS, schema_of(Record))
                self._held = held.pop_all()
        return self._shards

    def _rows(self, batch: list[Waiting]) -> list[dict[str, Any]]:
        rows = []
        for waiting in batch:
            try:
                rows.append(asdict(to_record(*waiting, self._config)))
            except Exception as error:  # of one image; the others are recorded
                log.error("an image cannot be recorded", exc_info=error)
        return rows

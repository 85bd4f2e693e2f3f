"""*Flagged images, alerts of query sequences* → **a finding each, as a line of a file** that a SIEM reads.

They are written as `background.py` says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from detector.errors import ConfigError
from server.config import ServerConfig
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.background import Background, Dropped, Waiting
from server.observers.event_file import EventFile
from server.observers.finding import to_finding, to_sequence_finding
from server.observers.queries import QueryAlert

__all__ = ["Events"]

ALERT_BYTES = 1024


class Events(Background):
    """Writes an event for each image that is flagged, at the rate of its request or the server's own, and each alert.

    Args:
        path: The file.
        config: Whether events are chained.
        on_written: Told how many were written.
        on_dropped: Told why so many were not.
    """

    def __init__(
        self, path: Path, config: ServerConfig, on_written: Callable[[int], None], on_dropped: Dropped
    ) -> None:
        super().__init__("events", path, on_written, on_dropped)
        self._limits = config.image_limits
        self._file = EventFile(path, chained=config.events_chain)
        self.start()

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        if result.flagged:
            self.put(request, result, request.size_bytes)

    def alerted(self, alert: QueryAlert) -> None:
        """Queues an alert of a client's query sequence; called on the thread that compares."""
        self.put_any(alert, ALERT_BYTES)

    def _begin(self) -> None:
        """Says at the start what would otherwise be said with the first event, which may be long in coming."""
        try:
            self._file.make()
        except (OSError, ConfigError) as error:
            self._report("unwritable", f"events will be dropped: {error}")

    def _write(self, batch: list[Waiting | QueryAlert]) -> int:
        events = []
        for waiting in batch:
            try:
                if isinstance(waiting, QueryAlert):
                    events.append(to_sequence_finding(waiting))
                else:
                    events.append(to_finding(*waiting, self._limits))
            except Exception as error:  # of one image; the others have their events
                self._log.error("an image has no event", exc_info=error)
        self._file.append(events)
        return len(events)

    def _release(self) -> None:
        self._file.close()

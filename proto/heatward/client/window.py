"""The open images of a stream: which request id belongs to which image, and how long it has waited.

Used by both clients; the synchronous one opens images on one thread and closes them on another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from heatward.errors import DetectionError

__all__ = ["Window"]

GRACE_S = 0.1
"""For answers that have arrived while the caller was busy elsewhere, longer than the deadline."""


@dataclass
class Window:
    """Images sent and not yet answered, oldest first.

    Attributes:
        timeout_s: The longest that an image may wait for its answer.
    """

    timeout_s: float
    _sent_at: dict[str, float] = field(default_factory=dict)

    def open(self, index: int) -> str:
        """The request id for the image at `index`."""
        request_id = str(index)
        self._sent_at[request_id] = time.monotonic()
        return request_id

    def close(self, request_id: str) -> int:
        """The index of the image that this answer belongs to."""
        if self._sent_at.pop(request_id, None) is None:
            raise DetectionError(
                "INTERNAL", f"the server answered {request_id!r}, which is not the id of an open image"
            )
        return int(request_id)

    def patience_s(self) -> float:
        """How long to wait for the next answer before `check_deadline`."""
        return max(GRACE_S, self._left_s())

    def check_deadline(self) -> None:
        """Called when no answer came in time.

        Raises:
            DetectionError: DEADLINE_EXCEEDED, where the oldest open image has waited too long.
        """
        if self._left_s() <= 0:
            raise self.ended_by(
                DetectionError("DEADLINE_EXCEEDED", f"an image of the stream had no answer within {self.timeout_s:g} s")
            )

    def check_empty(self) -> None:
        """Called when the server has ended the stream."""
        if self._sent_at:
            raise DetectionError("INTERNAL", f"the server ended the stream with {len(self._sent_at)} images unanswered")

    def ended_by(self, error: DetectionError) -> DetectionError:
        """The error that ended the stream, which also says how many images it leaves without an answer."""
        count = len(self._sent_at)
        left = f"; {count} image{'s' * (count != 1)} of the stream unanswered" if count else ""
        return DetectionError(error.code, error.message + left, error.violations, error.retry_after_s)

    def _left_s(self) -> float:
        oldest = next(iter(tuple(self._sent_at.values())), None)  # a copy: the other thread may be opening one
        return self.timeout_s if oldest is None else oldest + self.timeout_s - time.monotonic()

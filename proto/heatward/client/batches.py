"""A batch of any size: images go in, calls of DetectBatch that the server takes come out, and an answer per image.

    images ─▶ requests ─▶ parts (at most 64 images, 16 MiB, and the server's limits) ─▶ two calls at a time ─▶ answers

At the deadline, what has no answer is a `Failure`, and the rest is kept: each image carries a deadline of its own that
lies a little before the call's, so that a part comes back with what is ready. The clients make the calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from heatward.client.limits import SMALL_BYTES, too_large
from heatward.client.messages import pack, result, timeout_ms
from heatward.client.values import Failure, Verdict
from heatward.errors import DetectionError, arrived
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

__all__ = ["AT_ONCE", "Part", "Plan"]

PART_IMAGES = 64
PART_BYTES = 16 * 2**20
AT_ONCE = 2
"""Calls in flight."""
FEW = 8
"""So many small images are sent without asking for the server's limits."""
ITEM_BYTES = 8
"""What a request costs in a batch beside itself, at most."""
SHARE = 0.9
"""Of the time that is left: the images' own deadline. The rest is for the way back."""


@dataclass
class Part:
    """One call."""

    places: list[int] = field(default_factory=list)
    request: pb.DetectBatchRequest = field(default_factory=pb.DetectBatchRequest)
    bytes: int = 0


class Plan:
    """Which image goes into which call, and what became of it.

    Args:
        images: Read as they are sent.
        template: A request without its image.
        timeout_s: For all calls together.

    Attributes:
        limits: The server's, where they are known.
    """

    def __init__(self, images: Iterable[ImageInput], template: pb.DetectRequest, timeout_s: float) -> None:
        self._images = images
        self._template = template
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._answers: list[Verdict | Failure | None] = []
        self._answered = False
        self._error: DetectionError | None = None
        self.limits: pb.Limits | None = None

    def parts(self) -> Iterator[Part | None]:
        """The calls to make, one after the other; None: `limits` are wanted before the next."""
        part = Part()
        for image in self._images:
            packed = self._late() if self._left_s() <= 0 else pack(image, self._template)
            if isinstance(packed, pb.DetectRequest):
                size = packed.ByteSize() + ITEM_BYTES
                if self.limits is None and (len(self._answers) >= FEW or part.bytes + size > SMALL_BYTES):
                    yield None
                if self.limits is not None:
                    packed = too_large(packed, self.limits, ITEM_BYTES) or packed
            if isinstance(packed, Failure):
                self._answers.append(packed)
                continue
            if self._is_full(part, size):
                yield part
                part = Part()
            part.places.append(len(self._answers))
            part.request.requests.append(packed)
            part.bytes += size
            self._answers.append(None)
        if part.places:
            yield part

    def begin(self, part: Part) -> float:
        """The seconds that the part's call has; 0 or less where it is settled, because none are left."""
        left_s = self._left_s()
        if left_s <= 0:
            self.fail(part, self._late().error())
        for request in part.request.requests:
            request.timeout_ms = timeout_ms(left_s * SHARE)
        return left_s

    def settle(self, part: Part, response: pb.DetectBatchResponse | None) -> None:
        try:
            results = arrived(response).results
        except DetectionError as lost:
            return self.fail(part, lost)
        if len(results) != len(part.places):
            count = f"{len(results)} answers to {len(part.places)} images"
            return self.fail(part, DetectionError("INTERNAL", f"the server sent {count}"))
        self._answered = True
        for place, item in zip(part.places, results, strict=True):
            self._answers[place] = result(item)
        return None

    def fail(self, part: Part, error: DetectionError) -> None:
        self._error = self._error or error
        failure = Failure(error.code, error.message, error.violations, error.retry_after_s)
        for place in part.places:
            self._answers[place] = failure

    def answers(self) -> list[Verdict | Failure]:
        """One per image, in their order.

        Raises:
            DetectionError: No call brought an answer.
        """
        if self._error is not None and not self._answered:
            raise self._error
        return [self._late() if answer is None else answer for answer in self._answers]

    def _is_full(self, part: Part, more_bytes: int) -> bool:
        limits = self.limits or pb.Limits()
        return len(part.places) >= min(PART_IMAGES, limits.max_batch or PART_IMAGES) or (
            bool(part.places) and part.bytes + more_bytes > min(PART_BYTES, limits.max_message_bytes or PART_BYTES)
        )

    def _left_s(self) -> float:
        return self._deadline_s - time.monotonic()

    def _late(self) -> Failure:
        return Failure("DEADLINE_EXCEEDED", f"the batch was not done within {self._timeout_s:g} s")

"""What the servers take in one request: a request goes in, None or the `Failure` that it would be comes out.

A message over the server's limit would end the whole stream or batch that it is in, so it must not be sent. The limits
are asked for (GetDetector) when the first image of some size is to be sent, and kept for a minute: servers change.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from heatward.client.values import Failure
from heatward.errors import Violation
from heatward.v1 import detection_pb2 as pb

__all__ = ["ALONE_BYTES", "SMALL_BYTES", "KnownLimits", "too_large"]

SMALL_BYTES = 1024
"""No server takes less: the least that its setting `max_message_bytes` allows."""
ALONE_BYTES = 4 * 2**20
"""A single image below this size, gRPC's own limit, is sent unasked: it would fail alone."""
KEPT_S = 60.0
UNKNOWN_KEPT_S = 1.0
"""After a server that did not say: the next image need not ask again."""


class KnownLimits:
    """What a client knows of its servers' limits. Safe to share between threads.

    Args:
        clock: Seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: tuple[float, pb.Limits] | None = None  # until when, and what

    def get(self) -> pb.Limits | None:
        """What was learnt within the last minute."""
        known = self._known
        return known[1] if known and self._clock() < known[0] else None

    def learn(self, info: pb.DetectorInfo | None) -> pb.Limits:
        """Keeps the answer of GetDetector; None: there was none, and nothing is known."""
        limits = pb.Limits() if info is None else info.limits
        self._known = self._clock() + (UNKNOWN_KEPT_S if info is None else KEPT_S), limits
        return limits

    def forget(self) -> None:
        """A server has refused a message of a size that should have fitted."""
        self._known = None


def too_large(request: pb.DetectRequest, limits: pb.Limits, beside_bytes: int = 0) -> Failure | None:
    """The failure of a request that the servers would not take; 0 among the limits is not known.

    `beside_bytes` of the message are not the request's.
    """
    image = request.image
    raw = image.WhichOneof("source") == "raw"
    count, field = (len(image.raw.data), "image.raw.data") if raw else (len(image.encoded), "image.encoded")
    if 0 < limits.max_image_bytes < count:
        fault = f"the image has {count} bytes, the server takes {limits.max_image_bytes}: send a smaller one"
    elif 0 < limits.max_message_bytes < request.ByteSize() + beside_bytes:
        fault = (
            f"the image has {count} bytes, which no message of at most {limits.max_message_bytes} bytes"
            " (the server's limit) can hold: send a smaller one"
        )
    else:
        return None
    return Failure("INVALID_ARGUMENT", fault, (Violation(field, fault),), request_id=request.request_id)

"""What is told of calls and images to a tracing system; by default nobody listens.

Where `otlp_endpoint` is set, `otel.py` turns it into OpenTelemetry spans; its libraries are the extra `trace`.
"""

from __future__ import annotations

import grpc
from heatward.v1 import detection_pb2 as pb

__all__ = ["UNTRACED", "Trace", "Traces"]


class Trace:
    """What is told of one call; this one tells nobody."""

    trace_id = ""
    """32 hexadecimal digits; "" where tracing is off."""

    def image(self, verdict: pb.Verdict) -> None:
        """Tells of an image that was answered just now; where its time went stands in the verdict."""

    def failed_image(self, seconds: float, code: str) -> None:
        """Tells of an image that was given up just now, `seconds` after it came, with this gRPC status."""

    def end(self, code: str) -> None:
        """Tells that the call ended with this gRPC status."""


UNTRACED = Trace()


class Traces:
    """Begins the trace of each call; this one traces none."""

    def begin(self, method: str, context: grpc.aio.ServicerContext, request_id: str) -> Trace:
        """A call has come; `method` is fully qualified: package.Service/Method."""
        return UNTRACED

    def close(self) -> None:
        """Sends what has not been sent. Blocks for seconds where the collector is away."""

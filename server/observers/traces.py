"""What is told of calls and images to a tracing system; by default nobody listens.

Where `otlp_endpoint` is set, `otel.py` turns it into OpenTelemetry spans; its libraries are the extra `trace`.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from server.errors import code_of
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult, RequestContext
from server.transport.observer import RpcObserver
from server.transport.rpc_context import RpcContext

__all__ = ["UNTRACED", "Trace", "Traces"]


class Trace:
    """What is told of one call; this one tells nobody."""

    trace_id = ""
    """32 hexadecimal digits; "" where tracing is off."""

    def image(self, result: InferenceResult) -> None:
        """Tells of an image that was answered just now; where its time went stands in the result."""

    def failed_image(self, seconds: float, code: str) -> None:
        """Tells of an image that was given up just now, `seconds` after it came, with this gRPC status."""

    def end(self, code: str) -> None:
        """Tells that the call ended with this gRPC status."""


UNTRACED = Trace()


NOTE = "trace"
"""Under which a call's trace is kept in its notes."""


class Traces(Observer, RpcObserver):
    """Begins the trace of each call, and tells it of the call's images; this one traces none."""

    def call_began(self, rpc: RpcContext, path: str, context: grpc.aio.ServicerContext) -> Mapping[str, str]:
        trace = rpc.notes[NOTE] = self.begin(path, context, rpc.request_id)
        return {"trace_id": trace.trace_id} if trace.trace_id else {}

    def call_ended(self, rpc: RpcContext, method: str, code: str, seconds: float) -> None:
        rpc.notes[NOTE].end(code)

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        request.context.notes[NOTE].image(result)

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        context.notes[NOTE].failed_image(seconds, code_of(error))

    def begin(self, method: str, context: grpc.aio.ServicerContext, request_id: str) -> Trace:
        """A call has come; `method` is fully qualified: package.Service/Method."""
        return UNTRACED

    def close(self) -> None:
        """Sends what has not been sent. Blocks for seconds where the collector is away."""

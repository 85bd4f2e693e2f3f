"""Calls and images → **OpenTelemetry spans**, sent to a collector over OTLP/gRPC.

    the call, child of the caller's span (W3C `traceparent` in its metadata)
    └── image: verdict or status, batch size
        └── decode ─▶ queue ─▶ compute

Names follow OpenTelemetry's semantic conventions for gRPC. A span never holds anything of an image. Sampling, headers
and certificates are set by the standard's `OTEL_…` variables.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.errors import code_of
from server.inference.context import RequestContext
from server.inference.observer import Headers, Observer
from server.inference.request import InferenceRequest, InferenceResult

__all__ = ["Trace", "Traces", "provider"]

NS_PER_S = 1_000_000_000
EXPORT_S = 3  # the end of the server waits that long for a collector that is away
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Status codes that are errors of a server; the others are its caller's."""


NOTE = "trace"
"""Under which a call's trace is kept in its notes."""


class Traces(Observer):
    """Makes spans of calls and their images.

    Args:
        provider: OpenTelemetry's; closed with this.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("heatward")
        self._parent = TraceContextTextMapPropagator().extract

    def call_began(self, context: RequestContext, path: str, headers: Headers) -> Mapping[str, str]:
        trace = context.notes[NOTE] = self.begin(path, headers, context.request_id)
        return {"trace_id": trace.trace_id}

    def call_ended(self, context: RequestContext, method: str, code: str, seconds: float) -> None:
        context.notes[NOTE].end(code)

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        request.context.notes[NOTE].image(result)

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        context.notes[NOTE].failed_image(seconds, code_of(error))

    def begin(self, method: str, headers: Headers, request_id: str) -> Trace:
        """A call has come; `method` is fully qualified: package.Service/Method."""
        texts = {key: value for key, value in headers() or () if isinstance(value, str)}
        attributes = {"rpc.system.name": "grpc", "rpc.method": method, "heatward.request_id": request_id}
        span = self._tracer.start_span(method, self._parent(texts), SpanKind.SERVER, attributes)
        return Trace(self._tracer, span)

    def close(self) -> None:
        """Sends what has not been sent. Blocks for seconds where the collector is away."""
        self._provider.shutdown()


class Trace:
    """The spans of one call."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span)
        self._sampled = span.is_recording()  # asked now: an image may be judged after its call was answered
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        """32 hexadecimal digits."""

    def image(self, result: InferenceResult) -> None:
        """An image was answered just now; where its time went stands in the result."""
        if not self._sampled:
            return
        end_ns = time.time_ns()
        attributes: dict[str, str | int] = {
            "heatward.verdict": result.word,
            "heatward.batch_size": result.batch_size,
            "heatward.detector_version": result.model.version,
        }
        start_ns = end_ns - round(result.total_s * NS_PER_S)
        span = self._tracer.start_span("image", self._inside, attributes=attributes, start_time=start_ns)
        inside = set_span_in_context(span)
        for part, seconds in (
            ("decode", result.decode_s),
            ("queue", result.queue_s),
            ("compute", result.compute_s),
        ):  # laid end to end; what is left is the wait for a decoding thread, and the delivery
            child = self._tracer.start_span(part, inside, start_time=start_ns)
            start_ns += round(seconds * NS_PER_S)
            child.end(start_ns)
        span.end(end_ns)

    def failed_image(self, seconds: float, code: str) -> None:
        """An image was given up just now, `seconds` after it came, with this gRPC status."""
        end_ns = time.time_ns()
        span = self._tracer.start_span("image", self._inside, start_time=end_ns - round(seconds * NS_PER_S))
        _end(span, code, end_ns)

    def end(self, code: str) -> None:
        """The call ended with this gRPC status."""
        _end(self._span, code)


def provider(endpoint: str) -> TracerProvider:
    """Sends spans to this collector, in batches, from a thread of its own."""
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "heatward")})
    made = TracerProvider(resource=resource, shutdown_on_exit=False)
    timeout_s = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_S))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=timeout_s)))
    return made


def _end(span: Span, code: str, end_ns: int | None = None) -> None:
    span.set_attribute("rpc.response.status_code", code)
    if code in FAULTS:
        span.set_attribute("error.type", code)
        span.set_status(StatusCode.ERROR)
    span.end(end_ns)

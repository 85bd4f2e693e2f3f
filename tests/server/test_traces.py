from __future__ import annotations

import builtins
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from heatward.v1 import detection_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode
from sample_requests import encoded, picture, raw
from served_models import inference_result

from detector.errors import ConfigError
from server.inference.observer import Headers
from server.inference.request import InferenceResult
from server.load import load_config
from server.observers.exporter import open_traces
from server.observers.otel import Traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DETECT = "heatward.v1.DetectionService/Detect"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)


def headers(*metadata: tuple[str, str | bytes]) -> Headers:
    return lambda: metadata


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(spans: InMemorySpanExporter) -> Iterator[Traces]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    traces = Traces(provider)
    yield traces
    traces.close()


def named(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def length_ns(span: ReadableSpan) -> int:
    return (span.end_time or 0) - (span.start_time or 0)


def result(p_value: float = 0.5) -> InferenceResult:
    times: dict[str, Any] = {"total_s": 0.1, "decode_s": 0.01, "queue_s": 0.02, "compute_s": 0.03}
    return inference_result(p_value, batch_size=4, **times)


def test_a_call_is_a_child_of_its_caller_and_named_by_convention(traces: Traces, spans: InMemorySpanExporter):
    trace = traces.begin(DETECT, headers(("x-bin", b"\0"), *TRACEPARENT), "id-1")
    assert trace.trace_id == TRACE
    trace.end("OK")
    (span,) = spans.get_finished_spans()
    assert span.kind is SpanKind.SERVER
    assert span.parent and f"{span.parent.span_id:016x}" == PARENT
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": DETECT,
        "rpc.response.status_code": "OK",
        "heatward.request_id": "id-1",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("header", ["", "00-zz-xx-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_call_without_a_usable_parent_begins_a_trace(traces: Traces, header: str):
    assert re.fullmatch("[0-9a-f]{32}", traces.begin(DETECT, headers(("traceparent", header)), "").trace_id)


@pytest.mark.parametrize(
    ("code", "fault"),
    [("INTERNAL", True), ("UNAVAILABLE", True), ("INVALID_ARGUMENT", False), ("RESOURCE_EXHAUSTED", False)],
)
def test_only_the_servers_own_faults_are_errors(traces: Traces, spans: InMemorySpanExporter, code: str, fault: bool):
    traces.begin(DETECT, headers(), "").end(code)
    (span,) = spans.get_finished_spans()
    assert attributes(span)["rpc.response.status_code"] == code
    assert (span.status.status_code is StatusCode.ERROR) == fault


def test_an_image_shows_where_its_time_went(traces: Traces, spans: InMemorySpanExporter):
    trace = traces.begin(DETECT, headers(), "")
    trace.image(result(0.001))
    trace.end("OK")
    found = named(spans)
    image = found["image"]
    assert image.parent and image.parent.span_id == found[DETECT].context.span_id
    assert attributes(image) == {
        "heatward.verdict": "attacked",
        "heatward.batch_size": 4,
        "heatward.detector_version": "v1",
    }
    assert length_ns(image) == 100_000_000
    parts = [found[name] for name in ("decode", "queue", "compute")]
    assert [length_ns(part) for part in parts] == [10_000_000, 20_000_000, 30_000_000]
    assert all(part.parent and part.parent.span_id == image.context.span_id for part in parts)
    assert [part.start_time for part in parts] == [image.start_time, parts[0].end_time, parts[1].end_time]


def test_an_image_that_is_judged_after_its_call_was_answered_has_its_span(traces: Traces, spans: InMemorySpanExporter):
    """As of a caller in guard mode who is told nothing."""
    trace = traces.begin(DETECT, headers(), "id")
    trace.end("OK")
    trace.image(result(0.001))
    assert attributes(named(spans)["image"])["heatward.verdict"] == "attacked"


def test_a_failed_image_has_its_own_status(traces: Traces, spans: InMemorySpanExporter):
    trace = traces.begin("heatward.v1.DetectionService/DetectBatch", headers(), "")
    trace.failed_image(0.5, "INTERNAL")
    trace.end("OK")
    found = named(spans)
    assert found["image"].status.status_code is StatusCode.ERROR
    assert length_ns(found["image"]) == 500_000_000
    assert found["heatward.v1.DetectionService/DetectBatch"].status.status_code is StatusCode.UNSET


def test_what_is_not_sampled_costs_no_spans_but_has_an_id_for_the_log():
    spans = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace = Traces(provider).begin(DETECT, headers(), "")
    trace.image(result())
    trace.failed_image(0.1, "INTERNAL")
    trace.end("OK")
    assert trace.trace_id
    assert spans.get_finished_spans() == ()


# ---- on the wire ----------------------------------------------------------------------------------------------------


class Collector(otlp_grpc.TraceServiceServicer):
    """Keeps what a server sends."""

    def __init__(self) -> None:
        self.received: list[otlp.ExportTraceServiceRequest] = []
        self.port = 0

    async def Export(self, request: otlp.ExportTraceServiceRequest, context: Any) -> otlp.ExportTraceServiceResponse:
        self.received.append(request)
        return otlp.ExportTraceServiceResponse()

    @property
    def spans(self) -> dict[str, Any]:
        scopes = [scope for each in self.received for one in each.resource_spans for scope in one.scope_spans]
        return {span.name: span for scope in scopes for span in scope.spans}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector, server = Collector(), grpc.aio.server()
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector
    await server.stop(None)


async def test_spans_of_a_server_reach_a_collector_without_a_word_of_the_image(serving, collector: Collector):
    secret = b"these-bytes-are-an-image"
    async with serving(otlp_endpoint=f"http://127.0.0.1:{collector.port}") as served:
        metadata = (*TRACEPARENT, ("authorization", "Bearer a-token"))
        await served.stub.Detect(raw(picture(3), "my-id"), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.DetectBatch(pb.DetectBatchRequest())
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[encoded(secret)]))
    span = collector.spans[DETECT]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {each.key: each.value.string_value for each in span.attributes}
    assert attributes["heatward.request_id"] == "my-id"
    assert collector.received[0].resource_spans[0].resource.attributes
    sent = b"".join(each.SerializeToString() for each in collector.received)
    assert b"heatward" in sent
    assert not any(word in sent for word in (secret, b"a-token", picture(3).tobytes()))


async def test_the_images_of_a_batch_are_children_of_their_call(serving, collector: Collector):
    async with serving(otlp_endpoint=f"http://127.0.0.1:{collector.port}") as served:
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture(3)), encoded(b"broken")]))
    scopes = [s for each in collector.received for one in each.resource_spans for s in one.scope_spans]
    found = [span for scope in scopes for span in scope.spans]
    images = [span for span in found if span.name == "image"]
    call = collector.spans["heatward.v1.DetectionService/DetectBatch"]
    assert [span.parent_span_id for span in images] == [call.span_id] * 2
    assert sorted(span.name for span in found) == sorted(
        ["heatward.v1.DetectionService/DetectBatch", "image", "image", "decode", "queue", "compute"]
    )
    inner = [span for span in found if span.name in ("decode", "queue", "compute")]
    assert all(call.start_time_unix_nano <= span.start_time_unix_nano for span in inner)
    assert all(span.end_time_unix_nano <= call.end_time_unix_nano for span in inner)


async def test_a_collector_that_is_away_harms_no_call(serving):
    async with serving(otlp_endpoint="http://127.0.0.1:1") as served:
        assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3


# ---- off ------------------------------------------------------------------------------------------------------------


def test_off_by_default():
    assert open_traces(load_config([]).otlp_endpoint) is None


def test_an_endpoint_needs_a_scheme():
    with pytest.raises(ConfigError, match=r"otlp.endpoint"):
        load_config(["--otlp-endpoint", "collector:4317"])


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    importing = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "server.observers.otel":
            raise ImportError("No module named 'opentelemetry.sdk'")
        return importing(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"otlp_endpoint.*pip install.*trace"):
        open_traces("http://127.0.0.1:4317")


SECRET = "do-not-print-me"


@pytest.mark.parametrize(
    "headers",
    [
        SECRET,
        f"a=1,{SECRET}",
        f"authorization=Bearer {SECRET}\nmore",
        f"a=ü{SECRET}",
        f"a={SECRET}%0Ax",
        f"a={SECRET}%C3%BC",
    ],
)
def test_headers_that_cannot_be_sent_are_refused_and_not_shown(
    headers: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_HEADERS: header [12]") as caught:
        open_traces("http://127.0.0.1:4317")
    assert SECRET not in str(caught.value) and SECRET not in caplog.text


@pytest.mark.parametrize("headers", ["", f"authorization=Bearer {SECRET}\n", f"a=1, b={SECRET}=%20x,", "x-key = v:/w"])
def test_headers_that_can_be_sent_are(
    headers: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    traces = open_traces("http://127.0.0.1:4317")
    assert traces is not None
    traces.close()
    assert SECRET not in caplog.text and "invalid" not in caplog.text

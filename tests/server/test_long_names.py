"""Words of callers are cut before anything compares, repeats or logs them; a status always fits into its metadata."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from heatward.inference import grpc_service_pb2 as pb
from heatward.v1 import admin_pb2
from heatward.v1 import detection_pb2 as v1
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_requests import encoded, picture, raw

from server.errors import AdversarialInputError, RequestError, UnknownVersionError
from server.logs import JsonFormatter
from server.transport.parts import most_parts, refuse_crowds
from server.transport.status import to_grpc, to_status

METADATA_BYTES = 6000  # gRPC's limit is 8 KiB, and proxies add their own
LONG = {"letters": "imagebyts_" * 100_000, "emoji": "\U0001f600" * 100_000, "escapes": "%\n\x1b" * 100_000}
KSERVE = "/inference.GRPCInferenceService/"
DETECTION = "/heatward.v1.DetectionService/"


def infer(**fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="heatward", raw_input_contents=[b"\1\0\0\0x"])
    request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


def with_input(name: str = "image_bytes", datatype: str = "BYTES") -> pb.ModelInferRequest:
    request = infer()
    request.inputs[0].name, request.inputs[0].datatype = name, datatype
    return request


def with_parameter(name: str, value: str = "") -> pb.ModelInferRequest:
    request = infer()
    request.parameters[name].string_param = value
    return request


DOORS: dict[str, tuple[str, Callable[[str], object]]] = {
    "tensor name": (f"{KSERVE}ModelInfer", lambda word: with_input(name=word)),
    "datatype": (f"{KSERVE}ModelInfer", lambda word: with_input(datatype=word)),
    "parameter name": (f"{KSERVE}ModelInfer", with_parameter),
    "output": (
        f"{KSERVE}ModelInfer",
        lambda word: infer(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=word)]),
    ),
    "kserve id": (f"{KSERVE}ModelInfer", lambda word: infer(id=word)),
    "infer model": (f"{KSERVE}ModelInfer", lambda word: pb.ModelInferRequest(model_name=word)),
    "infer version": (f"{KSERVE}ModelInfer", lambda word: infer(model_version=word)),
    "ready model": (f"{KSERVE}ModelReady", lambda word: pb.ModelReadyRequest(name=word)),
    "metadata version": (f"{KSERVE}ModelMetadata", lambda word: pb.ModelMetadataRequest(name="heatward", version=word)),
    "config model": (f"{KSERVE}ModelConfig", lambda word: pb.ModelConfigRequest(name=word)),
    "statistics model": (f"{KSERVE}ModelStatistics", lambda word: pb.ModelStatisticsRequest(name=word)),
    "detector": (f"{DETECTION}GetDetector", lambda word: v1.GetDetectorRequest(version=word)),
    "request id": (f"{DETECTION}Detect", lambda word: raw(picture(), word)),
    "detector version": (
        f"{DETECTION}Detect",
        lambda word: v1.DetectRequest(detector_version=word, image=encoded(b"x").image),
    ),
    "health": ("/grpc.health.v1.Health/Check", lambda word: health_pb2.HealthCheckRequest(service=word)),
}


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that were compared with others."""
    words: list[str] = []
    compare = difflib.get_close_matches

    def recorded(word: str, *arguments: Any, **options: Any) -> list[str]:
        words.append(word)
        return compare(word, *arguments, **options)

    monkeypatch.setattr(difflib, "get_close_matches", recorded)
    return words


def metadata_bytes(code: object, details: str, trailing: Any) -> int:
    return len(quote(details)) + sum(len(key) + len(value) * 4 // 3 + 32 for key, value in trailing or ())


@pytest.mark.parametrize("word", LONG.values(), ids=LONG)
@pytest.mark.parametrize("door", DOORS)
async def test_a_long_word_is_the_callers_fault_and_stays_short(
    serving, door: str, word: str, compared: list[str], caplog: pytest.LogCaptureFixture
):
    method, request = DOORS[door]
    with caplog.at_level(logging.INFO):
        async with serving(max_connection_age_s=None) as served:
            call = served.channel.unary_unary(method, request_serializer=lambda message: message.SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request(word), timeout=30)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert metadata_bytes(None, caught.value.details(), caught.value.trailing_metadata()) < METADATA_BYTES
    assert all(len(each) < 100 for each in compared)
    assert all(len(JsonFormatter().format(record)) < 15_000 for record in caplog.records)


async def test_items_of_a_batch_have_short_statuses(serving):
    async with serving() as served:
        items = [v1.DetectRequest(detector_version=word, image=raw(picture()).image) for word in LONG.values()]
        answer = await served.stub.DetectBatch(v1.DetectBatchRequest(requests=items))
    assert all(result.status.ByteSize() < METADATA_BYTES for result in answer.results)


async def test_an_id_of_a_stream_that_is_in_use_is_repeated_shortly(serving):
    async with serving() as served:
        served.detector.gate.clear()
        stream = served.stub.DetectStream()
        for _ in range(2):
            await stream.write(raw(picture(), "x" * 128))
        result = await stream.read()
        served.detector.gate.set()
        await stream.done_writing()
    assert result.status.ByteSize() < 1000


@settings(deadline=None)
@given(st.text(), st.integers(0, 5000), st.text())
def test_any_status_fits(word: str, times: int, description: str):
    long = word * times
    for error in (
        RequestError(long, description + long),
        RequestError("", long),
        UnknownVersionError(long),
        AdversarialInputError(long, index=long, p_value=long, recovered_index=long),
    ):
        answer = to_grpc(to_status(error, long), None)
        assert metadata_bytes(answer.code, answer.details, answer.trailing_metadata) < 8000
        assert answer.details.isprintable()


def test_a_long_field_keeps_its_beginning():
    status = to_status(RequestError("parameters[" + "x" * 10**6 + "]", "unknown"), "id")
    violation = error_details_pb2.BadRequest.FromString(status.details[0].value).field_violations[0]
    assert violation.field.startswith("parameters[xxx") and len(violation.field) < 250
    assert rpc_status.to_status(status).code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(status, status_pb2.Status)


# ---- many parts -----------------------------------------------------------------------------------------------------


def nested(tag: int, data: bytes) -> bytes:
    size, varint = len(data), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([tag]) + varint + bytes([size]) + data


CROWDS: dict[str, tuple[Any, bytes]] = {
    "inputs": (pb.ModelInferRequest, b"\x2a\x00" * 3000),
    "outputs": (pb.ModelInferRequest, b"\x32\x00" * 3000),
    "raw contents": (pb.ModelInferRequest, b"\x3a\x00" * 3000),
    "parameters": (pb.ModelInferRequest, b"\x22\x00" * 3000),
    "a shape, packed": (pb.ModelInferRequest, nested(0x2A, nested(0x1A, b"\x01" * 6000))),
    "a shape, number by number": (pb.ModelInferRequest, nested(0x2A, b"\x18\x01" * 3000)),
    "contents": (pb.ModelInferRequest, nested(0x2A, nested(0x2A, b"\x42\x00" * 3000))),
    "a batch": (v1.DetectBatchRequest, b"\x0a\x00" * 3000),
    "groups first": (v1.DetectBatchRequest, b"\x7b\x7c" + b"\x0a\x00" * 3000),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_message_of_very_many_parts_is_refused_before_it_is_parsed(crowd: str):
    kind, data = CROWDS[crowd]
    kind.FromString(data)  # it is a message
    with pytest.raises(RequestError, match="more than 1000 parts"):
        refuse_crowds(kind.FromString, data, most=1000)
    refuse_crowds(kind.FromString, data, most=10_000)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_counting_says_nothing_of_what_is_no_message(data: bytes):
    refuse_crowds(v1.DetectBatchRequest.FromString, data, most=100)


def test_images_are_not_counted_by_their_size():
    message = v1.DetectBatchRequest(requests=[encoded(bytes(10_000))] * 10)
    refuse_crowds(v1.DetectBatchRequest.FromString, message.SerializeToString(), most=100)
    typed = pb.ModelInferRequest()
    typed.inputs.add(name="image").contents.uint_contents.extend([7] * 10_000)
    refuse_crowds(pb.ModelInferRequest.FromString, typed.SerializeToString(), most=100)


def test_a_full_batch_is_no_crowd():
    request = raw(picture(), "an id", heatmap=v1.HEATMAP_FORMAT_FLOAT)
    request.options.false_positive_rate, request.options.top_k = 0.05, 3
    request.timeout_ms, request.priority, request.detector_version = 10, v1.PRIORITY_LOW, "none"
    batch = v1.DetectBatchRequest(requests=[request] * 2500).SerializeToString()
    refuse_crowds(v1.DetectBatchRequest.FromString, batch, most_parts(2500))


async def test_a_crowd_is_refused_by_every_method(serving):
    calls = {
        f"{KSERVE}ModelInfer": b"\x32\x00" * 200_000,
        f"{DETECTION}DetectBatch": b"\x0a\x00" * 200_000,
    }
    async with serving(admin=True) as served:
        for method, data in calls.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.channel.unary_unary(method)(data, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
            assert "parts" in caught.value.details()
        await served.channel.unary_unary("/heatward.v1.AdminService/ListVersions")(
            admin_pb2.ListVersionsRequest().SerializeToString()
        )


@pytest.mark.parametrize("shape", [[1] * 9, [1] * 50_000])
async def test_a_shape_of_many_dimensions_is_refused(serving, shape: list[int]):
    request = infer()
    request.inputs[0].shape[:] = shape
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.channel.unary_unary(f"{KSERVE}ModelInfer")(request.SerializeToString(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"at most 8 dimensions, but came {len(shape)}" in caught.value.details()


async def test_elements_are_not_unpacked_beyond_the_shape(serving, monkeypatch: pytest.MonkeyPatch):
    request = infer()
    request.raw_input_contents[0] = bytes(4 * 100_000)  # as many empty files
    sizes: list[int] = []
    from server.protocols.kserve import tensors

    unpack = tensors.unpack

    def measured(*given: Any) -> list[Any]:
        found = list(unpack(*given))
        sizes.append(len(found))
        return found

    monkeypatch.setattr(tensors, "unpack", measured)
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.channel.unary_unary(f"{KSERVE}ModelInfer")(request.SerializeToString(), timeout=30)
    assert "shape [1] takes 1 elements, but came more" in caught.value.details()
    assert sizes == [2]

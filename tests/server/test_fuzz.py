"""Whatever comes, the answer is a verdict or the caller's fault, within a short time, and the next caller is served.

`benchmarks/serving/fuzz.py` sends many more cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from fake_detector import FakeDetector
from google.rpc import code_pb2
from heatward.v1 import detection_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_requests import png

from server.app import App
from server.config import ServerConfig

Call = Callable[[str, bytes], bytes]

CALLERS_FAULT = {"INVALID_ARGUMENT", "NOT_FOUND"}
bounded = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Calls a method of a server with bytes; gives its answer, or raises `AioRpcError`."""
    with asyncio.Runner() as runner:
        config = ServerConfig(port=0, metrics_port=None, threads=1, max_image_pixels=100_000)

        async def start() -> tuple[App, grpc.aio.Channel]:
            app = App(config, lambda path, device: FakeDetector(cursed=None))
            await app.listen()
            await app.begin()
            return app, grpc.aio.insecure_channel(app.address)

        async def send(method: str, data: bytes) -> bytes:
            return await channel.unary_unary(f"/heatward.v1.DetectionService/{method}")(data, timeout=20)

        app, channel = runner.run(start())
        try:
            yield lambda method, data: runner.run(send(method, data))
        finally:
            runner.run(channel.close())
            runner.run(app.close())


PIXELS = np.random.default_rng(0).integers(20, 256, (24, 24, 3), dtype=np.uint8)
FILES = [
    png(PIXELS, format="JPEG"),
    png(PIXELS, format="JPEG", progressive=True),
    png(Image.fromarray(PIXELS).convert("CMYK"), format="JPEG"),
    png(PIXELS),
    png(Image.fromarray(PIXELS).convert("RGBA")),
    png(PIXELS, format="WEBP"),
    png(PIXELS, format="WEBP", lossless=True),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 40))] = draw(st.binary(max_size=40))
    return bytes(data)


uint32 = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1))
enum = st.one_of(st.integers(0, 3), st.integers(-(2**31), 2**31 - 1))
raw_images = st.builds(
    pb.RawImage,
    data=st.binary(max_size=300),
    height=uint32,
    width=uint32,
    channels=uint32,
)
images = st.one_of(
    st.builds(pb.Image, encoded=st.one_of(damaged(), st.binary(max_size=50))),
    st.builds(pb.Image, raw=raw_images),
    st.just(pb.Image()),
)
options = st.builds(pb.Options, false_positive_rate=st.none() | st.floats(), heatmap=enum, top_k=uint32)
requests = st.builds(
    pb.DetectRequest,
    request_id=st.text(max_size=150),
    image=st.none() | images,
    options=st.none() | options,
)


def codes(call: Call, method: str, data: bytes) -> list[str]:
    """Of the call or, in a batch that was answered, of each image."""
    try:
        answer = call(method, data)
    except grpc.aio.AioRpcError as error:
        return [error.code().name]
    if method == "DetectBatch":
        results = pb.DetectBatchResponse.FromString(answer).results
        return [code_pb2.Code.Name(result.status.code) for result in results]
    return ["OK"]


@bounded
@given(requests)
def test_any_request_is_answered_or_refused_as_the_callers_fault(call: Call, request: pb.DetectRequest):
    assert set(codes(call, "Detect", request.SerializeToString())) <= CALLERS_FAULT | {"OK"}


@bounded
@given(st.lists(requests, min_size=1, max_size=8))
def test_any_batch_has_one_answer_each(call: Call, batch: list[pb.DetectRequest]):
    came = codes(call, "DetectBatch", pb.DetectBatchRequest(requests=batch).SerializeToString())
    assert len(came) == len(batch)
    assert set(came) <= CALLERS_FAULT | {"OK"}


@bounded
@given(damaged())
def test_any_file_is_answered_or_refused(call: Call, data: bytes):
    request = pb.DetectRequest(image=pb.Image(encoded=data))
    assert set(codes(call, "Detect", request.SerializeToString())) <= {"INVALID_ARGUMENT", "OK"}


@bounded
@given(st.sampled_from(["Detect", "DetectBatch", "GetDetector"]), st.binary(max_size=60))
def test_any_bytes_for_a_message_are_answered_or_refused(call: Call, method: str, data: bytes):
    assert set(codes(call, method, data)) <= CALLERS_FAULT | {"OK"}


def test_a_long_name_does_not_lose_the_status(call: Call):
    request = pb.DetectRequest(detector_version="\U0001f600" * 20_000, image=pb.Image(encoded=FILES[0]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call("Detect", request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(caught.value.details().encode()) < 1100

"""SIGTERM with calls open: what was received is answered, the client is told where to go on, what is cut is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_upstream import SERVICE, labelled, upstream
from heatward.inference import grpc_service_pb2 as v2
from heatward.inference import grpc_service_pb2_grpc as v2_grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw
from test_lifecycle import start
from test_service import settle
from test_slow_reader import IMAGES, SLOW, SMALL_WINDOW, WINDOW, Wordy

from server.transport import streams

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def stopped(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [record for record in caplog.records if record.getMessage() == "stopped"]
    return {name: getattr(record, name) for name in ("all_answered", "streams_cut", "calls_cut", "images_unanswered")}


ALL = {"all_answered": True, "streams_cut": 0, "calls_cut": 0, "images_unanswered": 0}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heatward")


async def test_a_half_closed_stream_is_answered_whole_and_ends_well(
    serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "PAUSE_S", 0.5)  # a busy machine makes pauses of its own
    async with serving(in_flight_per_call=2) as served:
        served.detector.gate.clear()
        call = served.stub.DetectStream(iter([raw(picture(i), str(i)) for i in range(20, 60)]))
        await settle(lambda: served.app.batcher.pending + sum(map(len, served.detector.batches)) >= 2)
        drain = asyncio.create_task(served.app.drain(20))
        await asyncio.sleep(0.8)  # longer than a pause: the window, not the client, holds the reading up
        served.detector.gate.set()
        answered = {result.request_id: result.verdict.predicted.index async for result in call}
        assert answered == {str(i): i for i in range(20, 60)}
        assert await call.code() is grpc.StatusCode.OK
        assert await drain
    assert stopped(caplog) == ALL


async def test_a_client_that_goes_on_sending_is_answered_what_was_read_then_told(
    serving, caplog: pytest.LogCaptureFixture
):
    async with serving() as served:
        call = served.stub.DetectStream()
        sent: list[str] = []

        async def send() -> None:
            while not call.done():
                request = raw(picture(3, 64, 64), str(len(sent)))  # 12 kB
                try:
                    await call.write(request)
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
                    return
                sent.append(request.request_id)

        sending = asyncio.create_task(send())
        answered = [(await call.read()).request_id for _ in range(20)]
        drain = asyncio.create_task(served.app.drain(20))
        with pytest.raises(grpc.aio.AioRpcError):
            while True:
                answered.append((await call.read()).request_id)
        assert await call.code() is UNAVAILABLE
        assert "draining: send what has no answer yet to another server" in await call.details()
        assert await drain
        await sending
    assert len({*answered}) == len(answered)
    assert {*answered} == {*sent[: len(answered)]}  # what was read was answered, to the last
    assert stopped(caplog) == {"all_answered": False, "streams_cut": 1, "calls_cut": 0, "images_unanswered": 0}


async def test_an_idle_stream_is_told_and_is_no_loss(serving, caplog: pytest.LogCaptureFixture):
    async with serving() as served:
        call = served.stub.DetectStream()
        await call.write(raw(picture(3), "a"))
        assert (await call.read()).request_id == "a"
        await settle(lambda: not any(tally.images for tally in served.app.rpcs._open.values()))
        assert await served.app.drain(20)
        assert await call.code() is UNAVAILABLE
    assert stopped(caplog) == ALL


async def test_what_the_grace_cuts_is_counted(serving, caplog: pytest.LogCaptureFixture):
    async with serving(metrics_port=0) as served:
        served.detector.gate.clear()
        infer = v2.ModelInferRequest(model_name="heatward")
        pixels = infer.inputs.add(name="image", datatype="UINT8", shape=[4, 8, 8, 3])
        pixels.contents.uint_contents.extend([7] * 4 * 8 * 8 * 3)
        stream = served.stub.DetectStream()
        for i in range(3):
            await stream.write(raw(picture(i), str(i)))
        calls = [
            served.stub.Detect(raw(picture(1))),
            served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture(2))] * 5)),
            v2_grpc.GRPCInferenceServiceStub(served.channel).ModelInfer(infer),
            stream,
        ]
        await settle(lambda: sum(tally.images for tally in served.app.rpcs._open.values()) == 13)
        assert not await served.app.drain(0.2)
        assert [await call.code() for call in calls] == [UNAVAILABLE] * 4
        requests = served.app.metrics.registry.get_sample_value
        for method in ("Detect", "DetectBatch", "ModelInfer", "DetectStream"):
            assert requests("heatward_requests_total", {"method": method, "code": "UNAVAILABLE"}) == 1
        assert not served.app.rpcs.in_flight
    left = stopped(caplog)
    assert left | {"streams_cut": 0} == {
        "all_answered": False,
        "streams_cut": 0,
        "calls_cut": 4,
        "images_unanswered": 13,
    }
    assert [vars(record)["code"] for record in caplog.records if record.getMessage() == "call"] == ["UNAVAILABLE"] * 4


async def test_a_call_whose_message_is_still_on_its_way_is_counted(serving, caplog: pytest.LogCaptureFixture):
    async with serving() as served:

        async def slowly() -> AsyncIterator[pb.DetectRequest]:
            await asyncio.sleep(30)
            yield raw(picture(1))

        method = served.channel.stream_unary("/heatward.v1.DetectionService/Detect")
        call = method(slowly())
        await settle(lambda: len(served.app.rpcs._open) == 1)
        assert not await served.app.drain(0.1)
        assert await call.code() is UNAVAILABLE
    assert stopped(caplog)["calls_cut"] == 1


async def test_calls_that_arrive_with_the_signal_are_told_where_to_go(serving):
    """gRPC would end as CANCELLED what it has received and not handed on yet."""
    async with serving() as served:

        async def call_on() -> grpc.aio.AioRpcError:
            async with grpc.aio.insecure_channel(
                served.app.address, [("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                while True:
                    try:
                        await detection_pb2_grpc.DetectionServiceStub(channel).Detect(raw(picture(5)))
                    except grpc.aio.AioRpcError as error:
                        return error

        callers = [asyncio.create_task(call_on()) for _ in range(48)]
        await settle(lambda: sum(map(len, served.detector.batches)) > 100)
        assert await served.app.drain(20)
        assert {error.code() for error in await asyncio.gather(*callers)} == {UNAVAILABLE}


async def test_an_open_reflection_stream_is_no_call_of_ours(serving, caplog: pytest.LogCaptureFixture):
    async with serving() as served:
        call = served.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        await call.write(b"\x3a\x00")  # list services
        await call.read()
        assert await served.app.drain(0.1)
    assert stopped(caplog) == ALL


async def test_a_guarded_call_and_a_stream_that_is_passed_on_end_well(serving, caplog: pytest.LogCaptureFixture):
    async with (
        upstream() as behind,
        serving(upstream=behind.address, upstream_model="cats", guard_streams="pass") as served,
    ):
        released = asyncio.Event()
        behind.before = lambda context: released.wait()
        infer = served.channel.unary_unary(SERVICE + "ModelInfer")(labelled(7, 8).SerializeToString())
        stream = served.channel.stream_stream(SERVICE + "ModelStreamInfer")()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        await behind.entered.wait()
        drain = asyncio.create_task(served.app.drain(20))
        assert await stream.code() is UNAVAILABLE
        released.set()
        assert b"verdict" in await infer
        assert await drain
    assert stopped(caplog) == ALL


async def test_sigterm_amid_a_stream_leaves_numbers_in_the_log(tmp_path: Path):
    process = await start(str(tmp_path / "gate"), "--drain-grace-s", "0.5")
    assert process.stdout
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    async with grpc.aio.insecure_channel(ready["address"]) as channel:
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        call = stub.DetectStream(iter([raw(picture(i), str(i)) for i in range(7)]))
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert await call.code() is UNAVAILABLE
    (tmp_path / "gate").touch()
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    last = json.loads(stderr.decode().splitlines()[-1])
    assert process.returncode == 1
    assert (last["message"], last["level"], last["all_answered"]) == ("stopped", "warning", False)
    assert (last["calls_cut"], last["images_unanswered"]) == (1, 7)


async def test_answers_that_are_not_read_are_counted(serving, caplog: pytest.LogCaptureFixture):
    async with (
        serving(Wordy(), in_flight_per_call=WINDOW) as served,
        grpc.aio.insecure_channel(served.app.address, SMALL_WINDOW) as channel,
    ):
        requests = [raw(picture(SLOW), str(i), heatmap=pb.HEATMAP_FORMAT_FLOAT) for i in range(IMAGES)]
        stream = detection_pb2_grpc.DetectionServiceStub(channel).DetectStream(iter(requests))
        await settle(lambda: sum(map(len, served.detector.batches)) > WINDOW and not served.app.batcher.pending)
        assert not await served.app.drain(0.2)
        stream.cancel()
    left = stopped(caplog)
    assert left["calls_cut"] == 1
    assert 0 < left["images_unanswered"] <= WINDOW + 1  # one more is read, and waits for its place

"""Settings of the connection, seen from outside; messages that are compressed, too large or no messages at all."""

from __future__ import annotations

import gzip
import logging
import tracemalloc
import zlib
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from heatward.client.connection import OPTIONS
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw
from wire import MAX_CONCURRENT_STREAMS, PING, SETTINGS, checked, frames, relay_to, settings

from server.config import ServerConfig
from server.errors import MessageSizeError
from server.transport import channel
from server.transport.channel import channel_options, warn_where_open
from server.transport.messages import Messages
from server.transport.rpc_contexts import RpcContexts

DETECT = "/heatward.v1.DetectionService/Detect"
STREAM = "/heatward.v1.DetectionService/DetectStream"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


async def test_clients_are_told_how_many_calls_a_connection_takes(serving):
    async with serving(max_concurrent_streams=7) as served, aclosing(frames(served.app.address)) as came:
        kind, payload = await anext(came)
    assert kind == SETTINGS
    assert settings(payload)[MAX_CONCURRENT_STREAMS] == 7


async def test_an_idle_connection_is_checked_for_life(serving):
    async with serving(keepalive_s=1) as served, aclosing(frames(served.app.address)) as came:
        async for kind, _ in came:
            if kind == PING:
                break


@pytest.mark.parametrize("keepalive_s", [1, 2.5, 9, 10, 19, 20, 60, 3600, 1e7, 1e300])
def test_our_clients_checks_are_within_what_every_server_allows(keepalive_s: float):
    theirs: dict[str, Any] = dict(channel_options(ServerConfig(keepalive_s=keepalive_s)))
    ours: dict[str, Any] = dict(OPTIONS)
    allowed_ms = theirs["grpc.http2.min_ping_interval_without_data_ms"]
    assert 2 * allowed_ms <= ours["grpc.keepalive_time_ms"]  # half of it: checks are late, or bunch up on the way
    assert allowed_ms <= theirs["grpc.keepalive_time_ms"] / 2  # as the settings promise
    assert theirs["grpc.keepalive_time_ms"] <= 2**31 - 1


@pytest.mark.parametrize("keepalive_s", [1, 3600, 1e300])
async def test_clients_may_check_an_idle_connection(serving, monkeypatch: pytest.MonkeyPatch, keepalive_s: float):
    monkeypatch.setattr(channel, "PINGS_ALLOWED_S", 0.01)
    async with serving(keepalive_s=keepalive_s) as served:
        assert await checked(served.app.address, times=8, every_s=0.02) == b""


async def test_a_flood_of_checks_ends_the_connection(serving):
    async with serving(keepalive_s=1) as served:
        assert b"too_many_pings" in await checked(served.app.address, times=8, every_s=0)


async def test_an_old_connection_is_left_without_a_failed_call(serving):
    async with (
        serving(max_connection_age_s=0.05) as served,
        relay_to(served.app.address) as relay,
        grpc.aio.insecure_channel(relay.address) as channel,
    ):
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        while relay.connections < 4:
            assert (await stub.Detect(raw(picture(3)))).predicted.index == 3


async def test_answers_are_compressed_where_that_is_set(serving):
    sizes = {}
    for compression in ("none", "deflate", "gzip"):
        async with (
            serving(compression=compression) as served,
            relay_to(served.app.address) as relay,
            grpc.aio.insecure_channel(relay.address) as channel,
        ):
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            info = await stub.GetDetector(pb.GetDetectorRequest())
            assert len(info.classifier.classes) == 256
            sizes[compression] = relay.answered_bytes
    assert max(sizes["deflate"], sizes["gzip"]) < 0.7 * sizes["none"]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(serving, compression: grpc.Compression):
    async with serving() as served:
        verdict = await served.stub.Detect(raw(picture(9, 40, 40)), compression=compression)
        stream = served.stub.DetectStream(iter([raw(picture(5, 40, 40), "a")]), compression=compression)
        results = [result async for result in stream]
    assert verdict.predicted.index == 9
    assert [result.verdict.predicted.index for result in results] == [5]


async def test_a_compressed_bomb_is_inflated_no_further_than_the_limit(serving):
    async with serving(max_message_bytes=100_000) as served:
        bomb = raw(picture(0, 2000, 2000))  # 12 MB; gzip makes 12 kB of it
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(bomb, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "inflates to more than 100000 bytes" in caught.value.details()  # by our hand, not whole by gRPC's
        call = served.stub.DetectStream(iter([bomb]), compression=grpc.Compression.Gzip)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await served.stub.GetDetector(pb.GetDetectorRequest())).classifier.classes


def test_inflating_takes_no_more_memory_than_the_limit():
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()  # 256 MiB in 260 kB
    messages = Messages(2**20, RpcContexts(30.0), most_parts=1000)
    tracemalloc.start()
    try:
        with pytest.raises(MessageSizeError):
            messages._inflated(bomb)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 2**20


async def test_reflection_reads_what_is_compressed_and_refuses_what_is_none(serving, caplog: pytest.LogCaptureFixture):
    list_services = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    async with serving() as served:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            call = served.channel.stream_stream(REFLECTION)(iter([list_services]), compression=compression)
            assert b"heatward.v1.DetectionService" in await call.read()
        call = served.channel.stream_stream(REFLECTION)(iter([b"\x1f\xff\xff"]))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


CUT = gzip.compress(b"\xff", mtime=0)[:-4]


@pytest.mark.parametrize("data", [b"\x1f\xff\xff", b"\x0a\xff", CUT, b"\x78\x9c" + bytes(9)])
async def test_what_is_no_message_is_the_callers_fault(serving, caplog: pytest.LogCaptureFixture, data: bytes):
    async with serving() as served:
        for path in (DETECT, HEALTH_CHECK):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.channel.unary_unary(path)(data)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = served.channel.stream_stream(STREAM)(iter([data]))
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        health = await served.channel.unary_unary(
            HEALTH_CHECK, response_deserializer=health_pb2.HealthCheckResponse.FromString
        )(b"")
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({}, ""),
        ({"host": "localhost"}, ""),
        ({"host": "[::1]"}, ""),
        ({"host": "0.0.0.0"}, "anyone who reaches 0.0.0.0"),
        ({"host": "[::]"}, "anyone who reaches"),
        ({"host": "0.0.0.0", "token_file": "t"}, "tokens travel readable"),
        ({"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k"}, ""),
        ({"host": "example.org", "tls_certificate": "c", "tls_key": "k", "token_file": "t"}, ""),
    ],
)
def test_an_open_server_says_so(settings: dict[str, Any], warning: str, caplog: pytest.LogCaptureFixture):
    warn_where_open(ServerConfig(**settings))
    assert warning in caplog.text
    assert bool(caplog.records) == bool(warning)

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from fake_detector import FakeDetector
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from sample_requests import encoded, picture, raw

from server.app import App, serve
from server.config import ServerConfig

ROOT = Path(__file__).parents[2]
SERVICE = "heatward.v1.DetectionService"
Status = health_pb2.HealthCheckResponse


async def test_not_serving_until_warm_and_health_says_so():
    fake = FakeDetector()
    fake.gate.clear()

    def load(path: Path, device: str) -> FakeDetector:
        fake.gate.wait(10)
        return fake

    app = App(ServerConfig(port=0, metrics_port=None), load)
    try:
        await app.listen()
        async with grpc.aio.insecure_channel(app.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            for service in ("", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == Status.NOT_SERVING
            for call in (stub.Detect(raw(picture())), stub.GetDetector(pb.GetDetectorRequest())):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watch.read()).status == Status.NOT_SERVING
            fake.gate.set()
            await app.begin()
            assert (await watch.read()).status == Status.SERVING
            assert (await stub.Detect(raw(picture(3)))).predicted.index == 3
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="another"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        fake.gate.set()
        await app.close()


async def test_reflection_lists_what_is_served(serving):
    async with serving() as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await anext(aiter(call))
    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_metrics_count_calls_images_and_batches(serving):
    async with serving(metrics_port=0) as served:
        await served.stub.Detect(raw(picture(1)))
        await served.stub.Detect(raw(picture(255)))
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture(2)), encoded(b"broken")]))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.Detect(encoded(b"broken"))
        text = await scrape(served.app.metrics_address)
    lines = set(text.splitlines())
    assert {
        'heatward_requests_total{code="OK",method="Detect"} 2.0',
        'heatward_requests_total{code="INVALID_ARGUMENT",method="Detect"} 1.0',
        'heatward_requests_total{code="OK",method="DetectBatch"} 1.0',
        'heatward_images_total{verdict="clean"} 2.0',
        'heatward_images_total{verdict="attacked"} 1.0',
        'heatward_images_total{verdict="INVALID_ARGUMENT"} 2.0',
        "heatward_batch_size_sum 3.0",
        "heatward_queue_duration_seconds_count 3.0",
        "heatward_decode_duration_seconds_count 3.0",
        "heatward_pending_images 0.0",
        "heatward_ready 1.0",
    } <= lines
    assert any(line.startswith("heatward_compute_duration_seconds_bucket") for line in lines)
    assert any(line.startswith("heatward_detector_info{") for line in lines)


async def port_closed(address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_drain_answers_what_is_in_flight_and_refuses_the_rest(serving):
    async with serving() as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        served.detector.gate.clear()
        calls = [served.stub.Detect(raw(picture(i))) for i in range(5)]
        batch = served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture(70))] * 3))
        stream = served.stub.DetectStream()
        for i in range(3):
            await stream.write(raw(picture(80 + i), str(i)))
        while served.app.batcher.queued + len(served.detector.batches) < 4 or served.app.rpcs.in_flight < 7:
            await asyncio.sleep(0.01)
        while served.app.batcher.pending + sum(map(len, served.detector.batches)) < 11:
            await asyncio.sleep(0.01)
        drain = asyncio.create_task(served.app.drain(5))
        assert (await watch.read()).status == Status.NOT_SERVING
        await port_closed(served.app.address)  # until then it refuses calls itself: test_drain.py
        async with grpc.aio.insecure_channel(served.app.address) as late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detection_pb2_grpc.DetectionServiceStub(late).Detect(raw(picture(9)))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not drain.done()
        served.detector.gate.set()
        assert [(await call).predicted.index for call in calls] == [0, 1, 2, 3, 4]
        assert [result.verdict.predicted.index for result in (await batch).results] == [70] * 3
        assert {(await stream.read()).request_id for _ in range(3)} == {"0", "1", "2"}
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE  # open but idle: told to go elsewhere
        assert await drain


async def test_a_second_server_on_the_port_is_an_error(serving):
    async with serving() as served:
        port = int(served.app.address.rpartition(":")[2])
        second = App(ServerConfig(port=port, metrics_port=None), lambda path, device: FakeDetector())
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            await second.listen()
        await second.close()


async def test_a_dead_engine_ends_the_server_with_1(capsys: pytest.CaptureFixture[str]):
    fake = FakeDetector()
    ended = asyncio.create_task(serve(ServerConfig(port=0, metrics_port=None), lambda path, device: fake))
    ready = ""
    while not ready:
        await asyncio.sleep(0.01)
        ready = capsys.readouterr().out
    fake.lethal = True
    async with grpc.aio.insecure_channel(json.loads(ready)["address"]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await detection_pb2_grpc.DetectionServiceStub(channel).Detect(raw(picture(1)))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.wait_for(ended, 20) == 1


# ---- as a process of its own ----------------------------------------------------------------------------------------


async def start(*arguments: str, port: int = 0) -> asyncio.subprocess.Process:
    paths = os.pathsep.join([str(ROOT / "proto"), str(ROOT)])
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "support" / "serve_fake.py"),
        *arguments,
        *("--port", str(port), "--metrics-port", "0", "--threads", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    )


async def scrape(address: str) -> str:
    return await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
    )


async def test_sigterm_answers_and_exits_0_with_json_logs(tmp_path: Path):
    gate = tmp_path / "gate"
    process = await start(str(gate), "--max-batch", "4")
    assert process.stdout
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    assert ready["event"] == "ready"
    async with grpc.aio.insecure_channel(ready["address"]) as channel:
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        calls = [stub.Detect(raw(picture(i), f"id-{i}")) for i in range(10)]
        while "heatward_in_flight_requests 10.0" not in await scrape(ready["metrics_address"]):
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        while "heatward_ready 0.0" not in await scrape(ready["metrics_address"]):
            await asyncio.sleep(0.02)
        gate.touch()
        assert [(await call).predicted.index for call in calls] == list(range(10))
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    lines = [json.loads(line) for line in stderr.decode().splitlines()]
    assert process.returncode == 0, stderr.decode()
    assert {"id-3", "id-9"} <= {line.get("request_id") for line in lines}
    assert lines[-1]["message"] == "stopped"


async def test_a_bundle_that_cannot_be_loaded_exits_1_and_says_why():
    process = await start("broken")
    stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert stdout == b""
    lines = [json.loads(line) for line in stderr.decode().splitlines()]
    assert "differs from its sha256" in lines[-1]["message"]


async def test_sigterm_while_a_bundle_is_loaded_exits_0_too():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "heatward", "serve", "--threads", "1"),
        *("--port", str(port), "--metrics-port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "proto"), str(ROOT)])},
    )
    while process.returncode is None:  # it listens before it has a detector
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        except OSError:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    process.terminate()
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out) == (0, b"")
    assert json.loads(errors.splitlines()[-1])["message"] == "stopped"

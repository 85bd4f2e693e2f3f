"""Several devices: an engine each behind one queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from fake_detector import FakeDetector
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw
from test_service import settle

from detector.errors import ConfigError
from server.app import App
from server.config import ServerConfig
from server.inference.engines import devices_of


async def test_each_device_has_a_detector_and_takes_from_the_one_queue():
    made: list[FakeDetector] = []

    def load(path: Path, device: str) -> FakeDetector:
        made.append(FakeDetector())
        return made[-1]

    app = App(ServerConfig(port=0, metrics_port=None, threads=1, max_batch=2, device=("cpu", "cpu")), load)
    try:
        await app.listen()
        await app.begin()
        assert len(made) == 2
        for detector in made:
            detector.forget()
            detector.gate.clear()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            calls = [stub.Detect(raw(picture(index))) for index in range(8)]
            await settle(lambda: all(detector.entered.is_set() for detector in made))
            for detector in made:
                detector.gate.set()
            answers = await asyncio.gather(*calls)
        assert [answer.predicted.index for answer in answers] == [*range(8)]
        assert sorted(label for detector in made for batch in detector.batches for label in batch) == [*range(8)]
        assert [detector.threads for detector in made] == [{"heatward-engine-0"}, {"heatward-engine-1"}]
    finally:
        for detector in made:
            detector.gate.set()
        await app.close()


async def test_the_death_of_one_ends_all():
    made: list[FakeDetector] = []

    def load(path: Path, device: str) -> FakeDetector:
        made.append(FakeDetector())
        return made[-1]

    app = App(ServerConfig(port=0, metrics_port=None, threads=1, device=("cpu", "cpu")), load)
    try:
        await app.listen()
        await app.begin()
        for detector in made:
            detector.lethal = True
        async with grpc.aio.insecure_channel(app.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await detection_pb2_grpc.DetectionServiceStub(channel).Detect(raw(picture(1)))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(await asyncio.wait_for(app.engines.stopped, 10), SystemExit)
    finally:
        await app.close()


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices_of(("auto",)) == ["cuda:0", "cuda:1"]
    assert devices_of(("cuda:1", "cpu")) == ["cuda:1", "cpu"]
    with pytest.raises(ConfigError, match="device = 'cuda:2': this machine has cpu, cuda:0, cuda:1; name one of those"):
        devices_of(("cuda:2",))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert devices_of(("auto",)) == ["cpu"]

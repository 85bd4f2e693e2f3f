from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from fake_detector import FakeDetector
from heatward.v1 import detection_pb2_grpc

from server.app import App
from server.config import PREFIX, ServerConfig


@dataclass
class Served:
    """A server in this process, and a stub that calls it."""

    app: App
    detector: FakeDetector
    stub: detection_pb2_grpc.DetectionServiceStub
    channel: grpc.aio.Channel


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Serves a fake detector in this process, on free ports."""

    @asynccontextmanager
    async def start(detector: FakeDetector | None = None, **settings: Any) -> AsyncIterator[Served]:
        fake = detector or FakeDetector()
        defaults = {"port": 0, "metrics_port": None, "threads": 1, "decode_workers": 2, "max_batch": 8}
        app = App(ServerConfig(**(defaults | settings)), lambda path, device: fake)
        try:
            await app.listen()
            await app.begin()
            fake.forget()
            async with grpc.aio.insecure_channel(app.address) as channel:
                yield Served(app, fake, detection_pb2_grpc.DetectionServiceStub(channel), channel)
        finally:
            fake.gate.set()
            await app.close()

    yield start

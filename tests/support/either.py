"""Either client behind one interface, so that a test runs for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import heatward
import pytest

both = pytest.mark.parametrize("kind", ["sync", "async"])


class Threaded:
    """The synchronous client, each call on a thread."""

    def __init__(self, client: heatward.Client) -> None:
        self._client = client

    async def detect(self, image: heatward.ImageInput, **settings: Any) -> heatward.Verdict:
        return await asyncio.to_thread(self._client.detect, image, **settings)

    async def describe(self) -> heatward.DetectorInfo:
        return await asyncio.to_thread(self._client.describe)

    async def label(self, name: str, truth: str, true_label: str = "") -> tuple[str, bool]:
        return await asyncio.to_thread(self._client.label, name, truth, true_label)

    async def health(self, service: str = "") -> bool:
        return await asyncio.to_thread(self._client.health, service)


@asynccontextmanager
async def either(kind: str, address: str, **settings: Any) -> AsyncIterator[heatward.AsyncClient | Threaded]:
    if kind == "async":
        async with heatward.AsyncClient(address, **settings) as client:
            yield client
    else:
        with heatward.Client(address, **settings) as threaded:
            yield Threaded(threaded)

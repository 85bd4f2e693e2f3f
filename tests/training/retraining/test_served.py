"""A server that runs on the store meets the new champion, and the old one again, without one failed request."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import grpc
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw
from tiny_store import NEVER, make_store, words

from server.app import App, load_detector
from server.config import ServerConfig
from training.retraining import cli


async def test_a_running_server_follows_a_promotion_and_a_rollback(source: Path, trained: Path, place: Path) -> None:
    store = make_store(place, trained, NEVER)
    first = store.champion()
    config = ServerConfig(bundle=store.folder, port=0, metrics_port=None, threads=1, watch_s=0.05, trusted=("tiny",))
    app = App(config, partial(load_detector, config))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub, seen, done = detection_pb2_grpc.DetectionServiceStub(channel), [""], asyncio.Event()

            async def load() -> None:
                while not done.is_set():
                    answer = await stub.Detect(raw(picture(1)))  # raises where it is refused
                    seen.append(answer.detector_version)

            async def serves(digest: str) -> None:
                while seen[-1] != digest[:16]:
                    await asyncio.sleep(0.01)

            callers = [asyncio.create_task(load()) for _ in range(2)]
            await serves(first.digest)
            assert await asyncio.to_thread(cli.retrain, words(source, place)) == 0
            second = store.champion()
            assert second.digest != first.digest
            await serves(second.digest)
            assert await asyncio.to_thread(cli.rollback, [str(store.folder)]) == 0
            await serves(first.digest)
            done.set()
            await asyncio.gather(*callers)
            assert set(seen) == {"", first.digest[:16], second.digest[:16]}
    finally:
        await app.close()

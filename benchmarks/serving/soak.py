"""(f) of `load.py`, an hour's mixed load: *minutes* → **is every image answered once, and does nothing grow?**

A server with a near-free detector gets single images, batches and streams, every eighth image bad, and between them
cancelled calls, deadlines of a few milliseconds, and a new bundle (SIGHUP) every few seconds. Each answer's id is
checked. Memory, threads and file descriptors of the server are sampled; the first fifth, in which they settle, is left
out.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import grpc
import psutil
import uvloop
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from sample_requests import spoiled

from benchmarks.serving.ledger import Ledger, item
from benchmarks.serving.measures import Cost, flatness
from benchmarks.serving.parts import Row
from benchmarks.serving.send import photographs, raw_image
from benchmarks.serving.start import Server, serving

__all__ = ["soak"]

MIB = 2**20
NEAR_FREE = Cost(0.001, 0.0)
CALLS_AT_ONCE = 12
RELOAD_S, SAMPLE_S = 5.0, 0.5
GROWTH = 0.02
BAD_EVERY = 8
GOOD, BAD = frozenset({"OK"}), frozenset({"INVALID_ARGUMENT"})
LATE = GOOD | {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


class Mix:
    """Calls of every kind, by turns."""

    def __init__(self, stub: detection_pb2_grpc.DetectionServiceStub, ledger: Ledger) -> None:
        self._stub, self._ledger = stub, ledger
        self._random = Random(0)
        self._good = [*photographs(), *(raw_image(seed) for seed in range(8))]
        self._bad = spoiled()
        self.kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.one: 60,
            self.batch: 12,
            self.stream: 12,
            self.cancelled: 8,
            self.hurried: 8,
        }

    async def run(self, ends_s: float) -> None:
        while time.monotonic() < ends_s:
            await self._random.choices(list(self.kinds), list(self.kinds.values()))[0]()

    def _request(self) -> pb.DetectRequest:
        if self._random.randrange(BAD_EVERY):
            return self._good_request("good", GOOD)
        return pb.DetectRequest(request_id=self._ledger.expect("bad", BAD), image=self._random.choice(self._bad))

    def _good_request(self, kind: str, allowed: frozenset[str]) -> pb.DetectRequest:
        return pb.DetectRequest(request_id=self._ledger.expect(kind, allowed), image=self._random.choice(self._good))

    async def one(self) -> None:
        await self._unary(self._request())

    async def _unary(self, request: pb.DetectRequest, timeout_s: float | None = None) -> None:
        try:
            verdict = await self._stub.Detect(request, timeout=timeout_s)
            self._ledger.note((verdict or request).request_id, "OK")  # late, it may be none: see ledger.NoMessage
        except grpc.aio.AioRpcError as error:
            self._ledger.note(request.request_id, error.code().name)

    async def batch(self) -> None:
        requests = [self._request() for _ in range(self._random.randint(1, 32))]
        response = await self._stub.DetectBatch(pb.DetectBatchRequest(requests=requests))
        for result in response.results:
            self._ledger.note(*item(result))

    async def stream(self) -> None:
        requests = [self._request() for _ in range(self._random.randint(1, 64))]
        async for result in self._stub.DetectStream(iter(requests)):
            self._ledger.note(*item(result))

    async def cancelled(self) -> None:
        request = self._good_request("cancelled", GOOD | {"CANCELLED"})
        call = self._stub.Detect(request)
        await asyncio.sleep(self._random.uniform(0, 0.01))
        call.cancel()
        try:
            await call
            self._ledger.note(request.request_id, "OK")
        except asyncio.CancelledError:
            self._ledger.note(request.request_id, "CANCELLED")

    async def hurried(self) -> None:
        await self._unary(self._good_request("hurried", LATE), self._random.uniform(0, 0.01))


def soak(minutes: float) -> Iterator[Row]:
    """The rows of part f."""
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle.heatward"
        bundle.touch()
        with serving("stand-in", NEAR_FREE, bundle=bundle, metrics_port=0) as server:
            ledger, samples = uvloop.run(_soak(server, bundle, 60 * minutes))
            text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics").read().decode()
        left = sum(_metric(text, name) for name in ("heatward_pending_images", "heatward_in_flight_requests"))
        reloads = _metric(text, 'heatward_reloads_total{outcome="loaded",what="detector"}')
    wrong = dict(ledger.violations.most_common(9))
    raw = {"codes": dict(ledger.by_code), "wrong": wrong, "reloads": reloads, "samples": samples}
    memory, threads, files = (flatness(each) for each in zip(*samples, strict=True))
    shown = f"{memory.growth:+.1%}"
    what = f"memory, second fifth to last ({memory.low / MIB:.0f}–{memory.high / MIB:.0f} MiB, {reloads:.0f} reloads)"
    yield Row(what, memory.growth, shown, GROWTH, False, f"≤ {GROWTH:.0%}", raw)
    for what, each in (("threads", threads), ("file descriptors", files)):
        yield none(f"growth of {what} ({each.low:.0f}–{each.high:.0f})", round(each.growth * each.low))
    yield none(f"images lost or answered twice, of {ledger.asked:,}", ledger.lost + ledger.doubled)
    yield none("answers with a code that they should not have", ledger.wrong)
    yield none("images and calls left in the server afterwards", left)
    yield none("exit status", server.process.returncode)


def none(what: str, value: float) -> Row:
    return Row(what, value, f"{value:g}", 0, False, "0")


async def _soak(server: Server, bundle: Path, seconds: float) -> tuple[Ledger, list[tuple[int, int, int]]]:
    process, ledger = psutil.Process(server.process.pid), Ledger()
    samples: list[tuple[int, int, int]] = []
    ends_s = time.monotonic() + seconds

    async def every(pause_s: float, work: Callable[[], None]) -> None:
        while time.monotonic() < ends_s:
            await asyncio.sleep(pause_s)
            work()

    def sample() -> None:
        with process.oneshot():
            samples.append((process.memory_info().rss, process.num_threads(), process.num_fds()))

    def reload() -> None:
        bundle.touch()
        process.send_signal(signal.SIGHUP)

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        mix = Mix(stub, ledger)
        await asyncio.gather(
            every(SAMPLE_S, sample), every(RELOAD_S, reload), *(mix.run(ends_s) for _ in range(CALLS_AT_ONCE))
        )
        await asyncio.sleep(1)  # the server has yet to hear of the last calls that were given up
    return ledger, samples


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0

"""A process that sends images and times the answers: *a `Load` as JSON, its argument* → **a `Report` on stdout**.

Open loop (`rate`): calls begin at the times of a Poisson process, whether or not answers have come, and a latency
counts from the time at which its call was due. Closed loop (`concurrency`): so many calls at once, the next when one
ends. The server's CPU time is read at both ends of the counted time; this process' own is not in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Literal, NoReturn

import grpc
import numpy as np
import psutil
import uvloop
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from stand_in import SIDE

from benchmarks.serving.measures import poisson
from detector.bundle import EMBEDDED

__all__ = ["Load", "Report", "cpu_s", "photographs", "raw_image"]

PATIENCE_S = 60.0
GIVEN_UP_S = 1.0  # after the counted time, calls without a deadline


@dataclass(frozen=True)
class Load:
    """What is sent."""

    address: str
    pid: int
    """The server."""
    seconds: float
    settle_s: float = 1.0
    """Before that, not counted."""
    rate: float = 0.0
    """Calls per second, open loop; 0: closed loop."""
    concurrency: int = 1
    calls: Literal["unary", "batch", "stream"] = "unary"
    images: int = 1
    """In a batch; in a stream, sent and not yet answered."""
    deadline_s: float | None = PATIENCE_S
    """None: the server is told of none."""
    encoded: bool = False
    """JPEG files instead of raw pixels."""
    token: str = ""
    seed: int = 0


@dataclass
class Report:
    """What came back while it counted."""

    seconds: float = 0.0
    server_cpu_s: float = 0.0
    latencies_s: list[float | None] = field(default_factory=list)
    """Of each image; None: no verdict."""
    codes: dict[str, int] = field(default_factory=dict)
    batch_sizes: list[int] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """How much later than due a call was sent: the generator's own fault."""

    @property
    def verdicts(self) -> list[float]:
        return [each for each in self.latencies_s if each is not None]

    @property
    def rate(self) -> float:
        """Verdicts per second."""
        return len(self.verdicts) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU time of the server, per image."""
        return 1e3 * self.server_cpu_s / max(1, len(self.verdicts))


class Generator:
    """Sends one load."""

    def __init__(self, load: Load, stub: detection_pb2_grpc.DetectionServiceStub) -> None:
        self._load, self._stub = load, stub
        self._images = photographs() if load.encoded else [raw_image(seed) for seed in range(16)]
        self._numbers = count()
        self._metadata = (("authorization", f"Bearer {load.token}"),) if load.token else ()
        self._began_s = time.monotonic() + load.settle_s
        self._ends_s = self._began_s + load.seconds
        self._report = Report()

    async def run(self) -> Report:
        work = asyncio.ensure_future(self._open() if self._load.rate else self._closed())
        await asyncio.sleep(self._began_s - time.monotonic())
        began_s, cpu_before_s = time.monotonic(), cpu_s(self._load.pid)
        await asyncio.sleep(self._ends_s - time.monotonic())
        self._report.server_cpu_s = cpu_s(self._load.pid) - cpu_before_s
        self._report.seconds = time.monotonic() - began_s
        if not self._load.rate:
            work.cancel()
        await asyncio.gather(work, return_exceptions=not self._load.rate)
        return self._report

    async def _open(self) -> None:
        start_s = self._began_s - self._load.settle_s
        arrivals = poisson(self._load.rate, self._load.settle_s + self._load.seconds, self._load.seed)
        tasks = []
        for due_s in (start_s + arrivals).tolist():
            await asyncio.sleep(due_s - time.monotonic())
            if due_s >= self._began_s:
                self._report.late_s.append(time.monotonic() - due_s)
            tasks.append(asyncio.create_task(self._unary(due_s)))
        _, late = await asyncio.wait(tasks, timeout=PATIENCE_S if self._load.deadline_s else GIVEN_UP_S)
        for task in late:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):  # closing a channel hangs on cancelled calls
            if isinstance(ended, Exception):
                raise ended

    async def _closed(self) -> None:
        async def one() -> None:
            while True:
                await getattr(self, f"_{self._load.calls}")(time.monotonic())

        await asyncio.gather(*(one() for _ in range(self._load.concurrency)))

    def _request(self) -> pb.DetectRequest:
        number = next(self._numbers)
        return pb.DetectRequest(request_id=str(number), image=self._images[number % len(self._images)])

    async def _unary(self, due_s: float) -> None:
        try:
            verdict = await self._stub.Detect(self._request(), timeout=self._load.deadline_s, metadata=self._metadata)
            self._count(due_s, "OK", verdict.timings.batch_size)
        except grpc.aio.AioRpcError as error:
            self._count(due_s, error.code().name)

    async def _batch(self, due_s: float) -> None:
        requests = pb.DetectBatchRequest(requests=[self._request() for _ in range(self._load.images)])
        for result in (await self._stub.DetectBatch(requests, timeout=PATIENCE_S, metadata=self._metadata)).results:
            self._count_result(due_s, result)

    async def _stream(self, _: float) -> None:
        window = asyncio.Semaphore(self._load.images)
        sent_s: dict[str, float] = {}

        async def requests() -> AsyncIterator[pb.DetectRequest]:
            while time.monotonic() < self._ends_s:
                await window.acquire()
                request = self._request()
                sent_s[request.request_id] = time.monotonic()
                yield request

        async for result in self._stub.DetectStream(requests(), metadata=self._metadata):
            window.release()
            self._count_result(sent_s.pop(result.request_id), result)

    def _count_result(self, due_s: float, result: pb.DetectResult) -> None:
        failed = result.HasField("status")
        self._count(due_s, str(result.status.code) if failed else "OK", result.verdict.timings.batch_size)

    def _count(self, due_s: float, code: str, batch_size: int = 0) -> None:
        """An open loop counts what was due in its time, a closed loop what was done."""
        done_s = time.monotonic()
        if not self._began_s <= (due_s if self._load.rate else done_s) < self._ends_s:
            return
        report = self._report
        report.codes[code] = report.codes.get(code, 0) + 1
        report.latencies_s.append(done_s - due_s if code == "OK" else None)
        if batch_size:
            report.batch_sizes.append(batch_size)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, user and system."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def photographs() -> list[pb.Image]:
    """The embedded samples, as files."""
    paths = sorted((EMBEDDED.parent / "samples").rglob("*.jpg"))
    return [pb.Image(encoded=path.read_bytes()) for path in paths]


def raw_image(seed: int) -> pb.Image:
    """Pixels without meaning."""
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    return pb.Image(raw=pb.RawImage(data=pixels.tobytes(), height=SIDE, width=SIDE, channels=3))


async def send(load: Load) -> NoReturn:
    """Print the report, and end the process."""
    channel = grpc.aio.insecure_channel(load.address)
    await channel.channel_ready()
    report = await Generator(load, detection_pb2_grpc.DetectionServiceStub(channel)).run()
    print(json.dumps(asdict(report)), flush=True)
    os._exit(0)  # grpc.aio may wait without end for calls that were cancelled, when the channel is closed


if __name__ == "__main__":
    uvloop.run(send(Load(**json.loads(sys.argv[1]))))

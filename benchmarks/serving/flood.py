"""A flood of good and bad requests over loopback: is each answered exactly once, as it should be, in flat memory?

    python -m benchmarks.serving.flood                     # 2,000 images, 64 calls at once, the embedded detector
    python -m benchmarks.serving.flood --rounds 5 --json   # five such floods against one server

Starts `heatward serve` on a free port, sends single images, batches and streams in which every fourth image is bad,
checks every answer's id and status, and reports latency and the server's memory. Exits 1 where an answer is lost,
doubled or wrong, or memory grew by more than `--max-growth-percent` from the first round to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import io
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from PIL import Image

MIB = 2**20
WARM_UP = 200
BATCH, STREAM = 8, 16
TIMEOUT_S = 120.0


@dataclass
class Tally:
    """What came back."""

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    calls_ms: list[float] = field(default_factory=list)

    def add(self, request_id: str, code: str) -> None:
        self.answers[request_id] += 1
        self.statuses[code] += 1
        expected = "INVALID_ARGUMENT" if request_id.startswith("bad") else "OK"
        if code != expected:
            self.wrong.append(f"{request_id}: {code}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="images in a round (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="calls at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="floods against one server (%(default)s)")
    parser.add_argument("--max-growth-percent", type=float, default=5.0, help="of memory (%(default)s)")
    parser.add_argument("--command", default=f"{sys.executable} -m heatward serve", help="what starts the server")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    report = asyncio.run(flood(arguments))
    if arguments.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:>28}  {value}")
    return 0 if report["passed"] else 1


async def flood(arguments: argparse.Namespace) -> dict[str, object]:
    command = [*shlex.split(arguments.command), "--port", "0", "--metrics-port", "null", "--log-level", "warning"]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    process = psutil.Process(server.pid)
    try:
        if server.stdout is None:
            raise RuntimeError("the server has no standard output")
        line = await server.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start: {arguments.command}")
        rss = [process.memory_info().rss]
        good, bad = photographs(), spoiled()
        round_s: list[float] = []
        async with grpc.aio.insecure_channel(json.loads(line)["address"]) as channel:
            stub = detection_pb2_grpc.DetectionServiceStub(channel)
            await send(stub, WARM_UP, arguments.concurrency, good, bad, Tally())
            rss.append(process.memory_info().rss)
            tally = Tally()
            for number in range(arguments.rounds):
                started_s = time.monotonic()
                await send(stub, arguments.requests, arguments.concurrency, good, bad, tally, f"{number}-")
                round_s.append(time.monotonic() - started_s)
                rss.append(process.memory_info().rss)
    finally:
        if server.returncode is None:
            server.terminate()
        status = await server.wait()
    return summary(arguments, tally, rss, round_s, status)


def summary(
    arguments: argparse.Namespace, tally: Tally, rss: list[int], round_s: list[float], status: int
) -> dict[str, object]:
    sent = arguments.requests * arguments.rounds
    doubled = [name for name, count in tally.answers.items() if count > 1]
    lost = sent - len(tally.answers)
    growth = 100 * (rss[-1] / rss[min(2, len(rss) - 2)] - 1)  # rss: ready, warm, after each round
    p50, p95, p99 = np.percentile(tally.calls_ms, [50, 95, 99])
    return {
        "images sent": sent,
        "lost": lost,
        "doubled": len(doubled),
        "wrong": tally.wrong[:5] if tally.wrong else 0,
        "statuses": dict(tally.statuses),
        "images a second": round(sent / sum(round_s), 1),
        "call ms p50/p95/p99": [round(float(value), 1) for value in (p50, p95, p99)],
        "memory MiB ready/warm/rounds": [round(value / MIB) for value in rss],
        "growth percent": round(growth, 2),
        "server exit status": status,
        "passed": not (lost or doubled or tally.wrong or status) and growth <= arguments.max_growth_percent,
    }


async def send(
    stub: detection_pb2_grpc.DetectionServiceStub,
    count: int,
    concurrency: int,
    good: list[bytes],
    bad: list[pb.Image],
    tally: Tally,
    prefix: str = "",
) -> None:
    """Sends `count` images in calls of 1, 8 and 16, at most `concurrency` calls at once."""
    images = (
        pb.DetectRequest(request_id=f"bad-{prefix}{i}", image=bad[i // 4 % len(bad)])
        if i % 4 == 3
        else pb.DetectRequest(request_id=f"good-{prefix}{i}", image=pb.Image(encoded=good[i % len(good)]))
        for i in range(count)
    )
    calls = grouped(images)

    async def work() -> None:
        for call, requests in calls:
            started_s = time.monotonic()
            await call(stub, requests, tally)
            tally.calls_ms.append((time.monotonic() - started_s) * 1e3)

    await asyncio.gather(*(work() for _ in range(concurrency)))


def grouped(images: Iterator[pb.DetectRequest]) -> Iterator[tuple[Callable, list[pb.DetectRequest]]]:
    """Shares a stream of images out among calls: 24 alone, then a batch, then a stream, and again."""
    shapes = [(unary, 1)] * 24 + [(batch, BATCH), (stream, STREAM)]
    for position in range(sys.maxsize):
        call, size = shapes[position % len(shapes)]
        requests = list(itertools.islice(images, size))
        if not requests:
            return
        yield call, requests


async def unary(stub: detection_pb2_grpc.DetectionServiceStub, requests: list[pb.DetectRequest], tally: Tally) -> None:
    (request,) = requests
    try:
        verdict = await stub.Detect(request, timeout=TIMEOUT_S)
        tally.add(verdict.request_id, "OK")
    except grpc.aio.AioRpcError as error:
        tally.add(request.request_id, error.code().name)


async def batch(stub: detection_pb2_grpc.DetectionServiceStub, requests: list[pb.DetectRequest], tally: Tally) -> None:
    response = await stub.DetectBatch(pb.DetectBatchRequest(requests=requests), timeout=TIMEOUT_S)
    for result in response.results:
        tally.add(result.request_id, outcome(result))


async def stream(stub: detection_pb2_grpc.DetectionServiceStub, requests: list[pb.DetectRequest], tally: Tally) -> None:
    async for result in stub.DetectStream(iter(requests), timeout=TIMEOUT_S):
        tally.add(result.request_id, outcome(result))


def outcome(result: pb.DetectResult) -> str:
    codes = {status.value[0]: status.name for status in grpc.StatusCode}
    return codes[result.status.code] if result.HasField("status") else "OK"


def photographs() -> list[bytes]:
    folder = Path(__file__).parents[2] / "detector" / "embedded" / "samples"
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))] or [encode(np.zeros((32, 32, 3), np.uint8))]


def spoiled() -> list[pb.Image]:
    """Images that cannot be answered, one of each kind."""
    photo = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    bomb = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "PNG"))
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    return [
        pb.Image(encoded=b"GET / HTTP/1.1"),
        pb.Image(encoded=b""),
        pb.Image(encoded=photo[: len(photo) // 2]),
        pb.Image(encoded=bytes(bomb)),
        pb.Image(encoded=encode(np.zeros((8, 8, 3), np.uint8), "GIF")),
        pb.Image(),
        pb.Image(raw=pb.RawImage(data=b"x" * 11, height=2, width=2, channels=3)),
        pb.Image(raw=pb.RawImage(data=b"x", height=20_000, width=20_000, channels=3)),
        pb.Image(raw=pb.RawImage(channels=3)),
    ]


def encode(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())

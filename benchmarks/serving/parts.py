"""The measurements of `load.py`: each starts its servers, sends its load, and gives rows: value and goal.

Speeds are ratios of what was measured in the same run, alternately where both sides compute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import torch
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from stand_in import SIDE

from benchmarks.serving.measures import Cost, goodput, percentile, poisson, sojourns, tail
from benchmarks.serving.send import Report, photographs, raw_image
from benchmarks.serving.serve import Small
from benchmarks.serving.start import ENVIRONMENT, Server, drive, serving
from detector.bundle import EMBEDDED
from detector.classifier.preprocessing import to_images
from detector.detector import Detector
from detector.images import decode
from detector.malloc import keep_freed_memory
from server.config import ServerConfig
from server.models.latency_model import LatencyModel
from server.models.warm_up import warm_up

__all__ = ["PARTS", "Row"]

CPU = Cost(0.005, 0.008)  # batches save little, as on a CPU
GPU = Cost(0.150, 0.002)  # a batch takes hardly longer than an image, as on an accelerator
FREE = Cost(0.0, 0.0)
MAX_BATCH: int = ServerConfig.model_fields["max_batch"].default
BATCH_GOAL_S: float = ServerConfig.model_fields["batch_goal_ms"].default / 1e3
DEADLINE_S = 0.25
MANY = 64  # calls at once
FIFO: dict[str, Any] = {"queue_items": 10**6, "default_deadline_s": 3600}  # never full, never late
LAX_MS, LAX = 60_000, "batch_goal_ms never binding"
GIVEN_BACK = ENVIRONMENT | {"MALLOC_ARENA_MAX": "16"}  # any setting: the server then leaves the C library alone
TOKENS = {"flood": "flood-flood-flood-flood", "small": "small-small-small-small"}


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal` None: for orientation."""

    what: str
    value: float
    shown: str
    goal: float | None = None
    at_least: bool = True
    goal_shown: str = ""
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    seconds: float = 5.0
    """Of one load."""
    repeats: int = 2


def share(what: str, value: float, goal: float | None = None, **raw: Any) -> Row:
    return Row(what, value, f"{value:.0%}", goal, True, f"≥ {goal:.0%}" if goal else "", raw)


def times(what: str, value: float, goal: float | None = None, **raw: Any) -> Row:
    return Row(what, value, f"{value:.2f}×", goal, False, f"≤ {goal:g}×" if goal else "", raw)


def ms(what: str, value_s: float, goal_ms: float | None = None, **raw: Any) -> Row:
    value = 1e3 * value_s
    return Row(what, value, f"{value:.2f} ms", goal_ms, False, f"≤ {goal_ms:g} ms" if goal_ms else "", raw)


def overload(options: Options) -> Iterator[Row]:
    """(a) Goodput above capacity: ours, and the same server without deadlines, which neither predicts nor drops."""
    goals = {0.5: None, 1.0: None, 2.0: 0.95, 5.0: 0.90}
    capacities: list[float] = []
    found: dict[float, list[tuple[float, Report]]] = {load: [] for load in goals}

    def send(server: Server, load: float, deadline_s: float | None) -> tuple[float, Report]:
        sent = server.load(seconds=options.seconds, rate=load * capacities[-1], deadline_s=deadline_s)
        report = drive(sent)[0]
        return goodput(report.latencies_s, DEADLINE_S, options.seconds, capacities[-1]), report

    with serving("stand-in", CPU) as server:
        for _ in range(options.repeats):
            capacities.append(drive(server.load(seconds=options.seconds, concurrency=MANY))[0].rate)
            for load, runs in found.items():
                runs.append(send(server, load, DEADLINE_S))
    yield Row("capacity of the stand-in", median(capacities), f"{median(capacities):.0f}/s")
    for load, runs in found.items():
        with serving("stand-in", CPU, **FIFO) as fifo:  # a fresh one: it computes what nobody waits for
            beside, _ = send(fifo, load, None)
        yield share(
            f"goodput at {load:g} × capacity, heatward (FIFO: {beside:.0%})",
            median(value for value, _ in runs),
            goals[load],
            runs=[{"goodput": value, **noted(report)} for value, report in runs],
        )


def throughput(options: Options) -> Iterator[Row]:
    """(b) The embedded detector at 64 calls at once, in CPU time."""
    keep_freed_memory()
    detector = Detector.from_bundle(EMBEDDED)
    images = torch.stack([detector.classifier.prepare(decode(each.encoded)) for each in photographs()[:MAX_BATCH]])
    in_process_cpu_ms(detector, images, 0.0)  # the first use untimed
    with ExitStack() as stack:
        servers = {
            LAX: stack.enter_context(serving("embedded", batch_goal_ms=LAX_MS)),
            "the same, but freed memory given back": stack.enter_context(
                serving("embedded", batch_goal_ms=LAX_MS, environment=GIVEN_BACK)
            ),
            "default settings": stack.enter_context(serving("embedded")),
        }
        served: dict[str, list[Report]] = {name: [] for name in servers}
        alone_ms: list[float] = []
        for _ in range(options.repeats):
            for name, server in servers.items():
                alone_ms.append(in_process_cpu_ms(detector, images, options.seconds / 2))
                load = server.load(seconds=options.seconds * 2, settle_s=2, concurrency=MANY, encoded=True)
                served[name].extend(drive(load))
    for name, reports in served.items():
        took_ms = median(report.cpu_ms for report in reports)
        sizes = [size for report in reports for size in report.batch_sizes]
        raw = {"served ms": [each.cpu_ms for each in reports], "in process ms": alone_ms}
        yield share(
            f"throughput, {name} (batches of {median(sizes):.0f}; in process {len(images)})",
            median(alone_ms) / took_ms,
            0.95 if name == LAX else None,
            **raw,
        )


def overhead(options: Options) -> Iterator[Row]:
    """(c) CPU time of a small model in process / served; of a bare server / of ours where the model is free."""
    shapes: dict[str, tuple[dict[str, Any], float]] = {
        "unary": ({"concurrency": MANY}, 0.40),
        "8 images per call": ({"calls": "batch", "images": 8, "concurrency": 16}, 0.60),
        "32 images per call": ({"calls": "batch", "images": 32, "concurrency": 4}, 0.80),
        "streamed": ({"calls": "stream", "images": 64, "concurrency": 2}, 0.80),
    }
    seconds = options.seconds / 2
    small = Small()
    images = to_images(torch.randint(0, 256, (MAX_BATCH, SIDE, SIDE, 3), dtype=torch.uint8))
    with serving("small") as served, serving("bare") as bare, serving("stand-in", FREE) as ours:
        servers = {"served": served, "bare": bare, "ours": ours}
        took_ms: dict[str, dict[str, float]] = {shape: {} for shape in shapes}
        for shape, (load, _) in shapes.items():
            runs: dict[str, list[float]] = {name: [] for name in ("alone", *servers)}
            for _ in range(options.repeats):
                runs["alone"].append(in_process_cpu_ms(small, images, seconds))
                for name, server in servers.items():
                    runs[name].append(drive(server.load(seconds=seconds, **load))[0].cpu_ms)
            took_ms[shape] = {name: median(each) for name, each in runs.items()}
    for what, above, below, judged in (
        ("in process / served", "alone", "served", True),
        ("bare / ours", "bare", "ours", False),
    ):
        for shape, (_, goal) in shapes.items():
            least, spent = took_ms[shape][above], took_ms[shape][below]
            name = f"CPU, {what}, {shape} ({1e3 * least:.0f} / {1e3 * spent:.0f} µs per image)"
            yield Row(name, least / spent, f"{least / spent:.2f}", *((goal, True, f"≥ {goal:.2f}") if judged else ()))


def latency(options: Options) -> Iterator[Row]:
    """(d) One call at a time, to us and to a bare server, each after a file was judged in this process."""
    detector, _ = embedded(BATCH_GOAL_S)
    alone_s: list[float] = []
    served_s: list[float] = []
    around_s: list[float] = []
    bare_s: list[float] = []
    with ExitStack() as stack:
        stub, bare = [
            detection_pb2_grpc.DetectionServiceStub(
                stack.enter_context(grpc.insecure_channel(stack.enter_context(serving(kind)).address))
            )
            for kind in ("embedded", "bare")
        ]
        ends_s = time.monotonic() + 4 * options.seconds
        photos = photographs()
        while time.monotonic() < ends_s or len(served_s) < 20:
            photo = photos[len(served_s) % len(photos)]
            request, pixels = pb.DetectRequest(image=photo), pb.DetectRequest(image=raw_image(0))
            alone_s.append(in_process_s(detector, photo))
            started_s = time.monotonic()
            bare.Detect(pixels)
            bare_s.append(time.monotonic() - started_s)
            alone_s.append(in_process_s(detector, photo))
            started_s = time.monotonic()
            verdict = stub.Detect(request)
            served_s.append(time.monotonic() - started_s)
            around_s.append(served_s[-1] - verdict.timings.compute_ms / 1e3)
    raw = {"in process": alone_s, "served": served_s}
    yield ms(f"p50 in process ({len(alone_s)} calls)", median(alone_s))
    yield ms("p50 served, one call at a time, less p50 in process", median(served_s) - median(alone_s), 1.5, **raw)
    yield ms("p50 of a call's time outside the detector", median(around_s), None, around=around_s)
    yield ms("p50 of a call to a bare server, at such intervals", median(bare_s), None, bare=bare_s)


def tails(options: Options) -> Iterator[Row]:
    """(e) p99 / p50 at 70 % of capacity, and the least that any server could have."""
    load, limit = 0.7, LatencyModel({1 << power: CPU(1 << power) for power in range(6)}, BATCH_GOAL_S).limit
    with serving("stand-in", CPU) as server:
        capacity = drive(server.load(seconds=options.seconds, concurrency=MANY))[0].rate
        loads = [
            server.load(seconds=2 * options.seconds, rate=load * capacity, seed=seed) for seed in range(options.repeats)
        ]
        reports = [drive(each)[0] for each in loads]
    ideal = sojourns(poisson(load * limit / CPU(limit), 3000).tolist(), limit, CPU)
    md1 = sojourns(poisson(load, 100_000).tolist(), 1, lambda _: 1.0)
    ratios = [tail(report.verdicts) for report in reports]
    yield times(
        "p99 / p50 at 70 % of capacity", median(ratios), 3, ratios=ratios, reports=[noted(each) for each in reports]
    )
    yield times(f"  the same batches without any overhead (simulated, up to {limit})", tail(ideal))
    yield times("  M/D/1: no batches, no overhead (simulated)", tail(md1))


def fairness(options: Options) -> Iterator[Row]:
    """(g) p99 of a small client beside one that sends 50 times as much / its p99 alone."""
    with TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("".join(f"{name} {token}\n" for name, token in TOKENS.items()))
        for name, cost, rate, goal in (("batch", GPU, 4.0, 2.0), ("image", CPU, 4.0, None)):
            with serving("stand-in", cost, token_file=tokens) as server:
                seconds = 3 * options.seconds
                small = server.load(seconds=seconds, rate=rate, token=TOKENS["small"], seed=1)
                flood = server.load(seconds=seconds, rate=50 * rate, token=TOKENS["flood"], deadline_s=5.0)
                alone, beside = drive(small)[0], drive(small, flood)[0]
            p99s = [percentile(each.verdicts, 0.99) for each in (alone, beside)]
            lost = len(beside.latencies_s) - len(beside.verdicts)
            what = f"small client's p99, flooded / alone, cost by {name} ({1e3 * p99s[1]:.0f} / {1e3 * p99s[0]:.0f} ms)"
            yield times(
                what, p99s[1] / p99s[0] if not lost else math.inf, goal, alone=noted(alone), beside=noted(beside)
            )


def embedded(goal_s: float) -> tuple[Detector, LatencyModel]:
    detector = Detector.from_bundle(EMBEDDED)
    return detector, warm_up(detector, MAX_BATCH, goal_s)


def in_process_s(detector: Detector, photo: pb.Image) -> float:
    """Seconds to decode and judge one file."""
    started_s = time.monotonic()
    detector.detect(detector.classifier.prepare(decode(photo.encoded))[None])
    return time.monotonic() - started_s


def in_process_cpu_ms(detector: Detector | Small, images: torch.Tensor, seconds: float) -> float:
    """CPU milliseconds per image, batch after batch for so long."""
    began_s, cpu_before_s, count = time.monotonic(), time.process_time(), 0
    while not count or time.monotonic() - began_s < seconds:
        detector.detect(images)
        count += len(images)
    return 1e3 * (time.process_time() - cpu_before_s) / count


def noted(report: Report) -> dict[str, Any]:
    """What is worth keeping of a report."""
    kept = asdict(report)
    del kept["batch_sizes"], kept["late_s"], kept["latencies_s"]
    return kept | {
        "p50 ms": 1e3 * percentile(report.verdicts, 0.5),
        "p99 ms": 1e3 * percentile(report.verdicts, 0.99),
        "median batch": median(report.batch_sizes or [0]),
        "sent late, p99 ms": 1e3 * percentile(report.late_s, 0.99) if report.late_s else 0.0,
    }


PARTS = {"a": overload, "b": throughput, "c": overhead, "d": latency, "e": tails, "g": fairness}

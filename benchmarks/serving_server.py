"""A process that serves for `serving.py`: `serving_server.py KIND [FIXED_S IMAGE_S] [settings of heatward serve]`.

    embedded    `heatward serve` as it is, with the embedded detector
    stand-in    the same server, with a detector that sleeps FIXED_S + n x IMAGE_S for a batch of n and computes nothing
    small       the same server, with the embedded witness as the only model and a constant verdict: near-free, not free
    fifo        as stand-in, with a queue that neither predicts nor drops: unbounded, first come, first served
    bare        no server of ours: the least that a Python gRPC server of the same contract can do with an image

Prints one JSON line once it serves: {"address": …}.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import grpc
import numpy as np
import torch
import uvloop
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from numpy.typing import NDArray
from torch import Tensor

import server.app
from benchmarks.serving_measures import Cost
from detector.bundle import EMBEDDED
from detector.calibration import Calibration
from detector.detector import Detector, Verdict
from detector.errors import HeatwardError
from detector.heap import keep_freed_memory
from server.admission import Admission
from server.batcher import Batcher
from server.load import load_config
from server.work import Work

SIDE = 32
_loads = count()


class FreeClassifier:
    """Ten classes of nothing."""

    classes = tuple(f"class {index}" for index in range(10))
    num_classes = 10
    input_size = (SIDE, SIDE)

    def __init__(self) -> None:
        self.fingerprint = f"{next(_loads):016x}" * 4  # another version with each reload

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels


class StandIn:
    """A detector with one answer, which takes a batch the time that `cost` says and no CPU."""

    manifest = None
    thorough = False

    def __init__(self, cost: Cost) -> None:
        self.classifier = FreeClassifier()
        self.calibration = Calibration.fit(torch.arange(199.0))
        self._cost = cost
        labels = tuple((index, 0.9 / (index + 1)) for index in range(5))
        self._verdict = Verdict(0, 0.9, labels, 0.1, 0.5, labels, labels[0], np.zeros((4, 4), np.float32))

    def warm_up(self, sizes: list[int]) -> None:
        pass

    def detect(self, images: Tensor) -> list[Verdict]:
        if (seconds := self._cost(len(images))) > 0:
            time.sleep(seconds)
        return [self._verdict] * len(images)

    def undecided(self, verdict: Verdict) -> bool:
        return False


class Small(StandIn):
    """The smallest network at hand, computed for every image, and a constant verdict."""

    def __init__(self) -> None:
        super().__init__(Cost(0.0, 0.0))
        witness = Detector.from_bundle(EMBEDDED).extractor.witness
        if witness is None:
            raise HeatwardError(f"{EMBEDDED} has no witness: name a bundle that has one")
        self._net = witness

    def detect(self, images: Tensor) -> list[Verdict]:
        with torch.no_grad():
            self._net(images)
        return super().detect(images)


class Everyone(Admission):
    """Lets everyone in."""

    def check(self, work: Work, now_s: float, *, free_s: float, ahead: int, held: int) -> None:
        pass


class Fifo(Batcher):
    """Takes everything and computes everything, in the order of arrival, late or not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._admission = Everyone(1, 0.0)

    def _pop(self, now_s: float) -> list[Work]:
        waiting = sorted(self._turns, key=lambda work: work.number)
        batch = waiting[: waiting[0].warm.pace.limit] if waiting else []
        for work in batch:
            self._remove(work)
        return batch

    def leave(self, work: Work) -> None:
        pass


class Bare(detection_pb2_grpc.DetectionServiceServicer):
    """Pixels to a tensor, and a constant answer of the usual size."""

    def __init__(self) -> None:
        labels = [pb.Label(index=index, name=f"class {index}", probability=0.9 / (index + 1)) for index in range(5)]
        self._verdict = pb.Verdict(
            predicted=labels[0],
            top=labels,
            attack_score=0.1,
            p_value=0.5,
            false_positive_rate=0.01,
            recovered=labels,
            corrected=labels[0],
            timings=pb.Timings(queue_ms=0.1, decode_ms=0.1, compute_ms=0.1, total_ms=0.3, batch_size=1),
            detector_version="0" * 16,
            effort=pb.EFFORT_FAST,
        )

    async def Detect(self, request: pb.DetectRequest, context: grpc.aio.ServicerContext) -> pb.Verdict:
        decode(request)
        return self._verdict

    async def DetectBatch(
        self, request: pb.DetectBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectBatchResponse:
        return pb.DetectBatchResponse(results=[self._result(each) for each in request.requests])

    async def DetectStream(
        self, requests: AsyncIterator[pb.DetectRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.DetectResult]:
        async for request in requests:
            yield self._result(request)

    def _result(self, request: pb.DetectRequest) -> pb.DetectResult:
        decode(request)
        return pb.DetectResult(request_id=request.request_id, verdict=self._verdict)


def decode(request: pb.DetectRequest) -> Tensor:
    raw = request.image.raw
    return to_tensor(np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, raw.channels).copy())


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255  # (3, H, W)


async def serve_bare() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    bare = grpc.aio.server()
    detection_pb2_grpc.add_DetectionServiceServicer_to_server(Bare(), bare)  # type: ignore[no-untyped-call]
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await ended.wait()
    await bare.stop(None)


def main() -> int:
    kind, *arguments = sys.argv[1:]
    keep_freed_memory()
    torch.set_num_threads(1)
    if kind == "bare":
        uvloop.run(serve_bare())
        return 0
    if kind == "embedded":
        return server.app.run(load_config(arguments))
    if kind == "fifo":
        server.app.Batcher = Fifo  # type: ignore[attr-defined]
    if kind == "small":
        return server.app.run(load_config(arguments), lambda path, device: Small())  # type: ignore[arg-type,return-value]
    cost = Cost(*map(float, arguments[:2]))
    return server.app.run(load_config(arguments[2:]), lambda path, device: StandIn(cost))  # type: ignore[arg-type,return-value]


if __name__ == "__main__":
    sys.exit(main())

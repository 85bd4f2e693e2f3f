"""A process that serves for `load.py` and `chaos.py`: `serve.py KIND [FIXED_S IMAGE_S] [settings of heatward serve]`.

    embedded    `heatward serve` as it is, with the embedded detector
    stand-in    the same server, with a detector that sleeps FIXED_S + n x IMAGE_S for a batch of n and computes nothing
    small       the same server, with the embedded witness as the only model and a constant verdict: near-free, not free
    labelling   the same server, with a detector whose answer one knows from the image; its bundles are letters
    bare        no server of ours: the least that a Python gRPC server of the same contract can do with an image

Prints one JSON line once it serves: {"address": …}.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import torch
import uvloop
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from numpy.typing import NDArray
from stand_in import StandIn, load_letter
from torch import Tensor

from benchmarks.serving.measures import Cost
from detector.bundle import EMBEDDED
from detector.detector import Detector, Verdict
from detector.errors import HeatwardError
from detector.malloc import keep_freed_memory
from server.app import run
from server.load import load_config
from server.models.reload import Load


class Small(StandIn):
    """The smallest network at hand, computed for every image, and a constant verdict."""

    def __init__(self) -> None:
        super().__init__(Cost(0.0, 0.0))
        witness = Detector.from_bundle(EMBEDDED).extractor.witness
        if witness is None:
            raise HeatwardError(f"{EMBEDDED} has no witness: name a bundle that has one")
        self._net = witness

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        with torch.no_grad():
            self._net(images)
        return super().detect(images)


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
    detection_pb2_grpc.add_DetectionServiceServicer_to_server(Bare(), bare)
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
    loads: dict[str, Callable[[Path, str], object]] = {"small": lambda path, device: Small(), "labelling": load_letter}
    if kind == "stand-in":
        cost = Cost(*map(float, arguments[:2]))
        loads[kind] = lambda path, device: StandIn(cost)
        arguments = arguments[2:]
    return run(load_config(arguments), cast("Load | None", loads.get(kind)))


if __name__ == "__main__":
    sys.exit(main())

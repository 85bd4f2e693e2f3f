"""Requests to the KServe v2 door and to ours whose words, lists and shapes are far too long: **method, bytes**.

`fuzz.py` sends them and watches how long the event loop stands still meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from heatward.inference import grpc_service_pb2 as kserve
from heatward.v1 import detection_pb2 as pb

KSERVE, DETECTION = "/inference.GRPCInferenceService/", "/heatward.v1.DetectionService/"
ALPHABETS = ("imagebyts_", "\U0001f600\u202e", "%\n\x1b\x7f", "a")
EMPTY = {  # a field without content: two bytes, and an object in memory
    f"{KSERVE}ModelInfer": (b"\x22\x00", b"\x2a\x00", b"\x32\x00", b"\x3a\x00"),
    f"{DETECTION}DetectBatch": (b"\x0a\x00",),
}


def long_request(rng: random.Random, longest: int) -> tuple[str, bytes]:
    """One request with something in it that is up to `longest` bytes long."""
    if rng.random() < 0.2:
        method, fields = rng.choice(list(EMPTY.items()))
        return method, rng.choice(fields) * rng.randrange(longest // 2)
    alphabet = rng.choice(ALPHABETS)
    word = "".join(rng.choices(alphabet, k=100)) * rng.choice((1, 100, longest // 400))
    kind = rng.randrange(9)
    if kind == 0:
        return f"{DETECTION}GetDetector", pb.GetDetectorRequest(version=word).SerializeToString()
    if kind == 1:
        return f"{DETECTION}Detect", pb.DetectRequest(request_id=word, detector_version=word).SerializeToString()
    if kind == 2:
        return f"{KSERVE}ModelMetadata", kserve.ModelMetadataRequest(name=word, version=word).SerializeToString()
    request = kserve.ModelInferRequest(model_name="heatward", raw_input_contents=[b"\1\0\0\0x"])
    tensor = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
    if kind == 3:
        tensor.name = word
    elif kind == 4:
        tensor.datatype = word
    elif kind == 5:
        request.parameters[word].string_param = word
    elif kind == 6:
        request.outputs.add(name=word)
    elif kind == 7:
        tensor.shape[:] = [rng.choice((0, 1, -1, 2**62))] * (longest // 16)
    else:
        request.id = request.model_version = word
    return f"{KSERVE}ModelInfer", request.SerializeToString()


class Standstill:
    """The longest time for which the loop did nothing else."""

    longest_s = 0.0


@asynccontextmanager
async def watched(every_s: float = 0.005) -> AsyncIterator[Standstill]:
    """Watches the running loop while the context lasts."""
    seen = Standstill()

    async def watch() -> None:
        while True:
            slept_s = time.monotonic()
            await asyncio.sleep(every_s)
            seen.longest_s = max(seen.longest_s, time.monotonic() - slept_s - every_s)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()

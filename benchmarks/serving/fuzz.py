"""Bad input by the thousand: is it ever anything but the caller's fault, and does memory stay flat?

    python -m benchmarks.serving.fuzz --cases 100000          # a few minutes on one core
    python -m benchmarks.serving.fuzz --cases 5000 --seed 7   # the same cases whenever the seed is the same

Serves a fake detector in this process and sends it mutated JPEG, PNG and WebP files, random bytes and requests with
every field out of its range: to the decoder alone, as Detect, as an item of DetectBatch, as bytes that are no message,
and words, lists and shapes that are far too long (`fuzz_words.py`). Exits 1 where a status says that the server is at
fault (INTERNAL, UNKNOWN; RESOURCE_EXHAUSTED for a word), an answer is missing, the decoder raises what is not ours,
one case takes longer than `--slowest-s`, or the event loop stands still for longer than `--standstill-s`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import io
import json
import logging
import random
import sys
import time
import warnings
from collections.abc import Callable

import grpc
import numpy as np
import psutil
from fake_detector import FakeDetector
from google.rpc import code_pb2
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc
from PIL import Image

from benchmarks.serving.fuzz_words import long_request, watched
from detector.errors import ImageError
from detector.images import ImageLimits, decode
from server.app import App
from server.config import ServerConfig

MIB = 2**20
LONGEST = 30 * MIB
GROUP = 32
LIMITS = ImageLimits(max_bytes=MIB, max_pixels=2_000_000)
FAULTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
UINT32 = (0, 1, 2, 3, 5, 8, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
RATES = (0.0, -0.0, 1.0, -1.0, 0.01, 0.05, 0.5, 1e-9, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
ENUMS = (-(2**31), -1, 0, 1, 2, 3, 9, 2**31 - 1)


def samples() -> list[bytes]:
    """One valid file of each kind."""
    pixels = np.random.default_rng(0).integers(20, 256, (40, 48, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "JPEG", {"exif": exif, "icc_profile": bytes(300)}),
        (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("L"), "JPEG", {"restart_marker_blocks": 3}),
        (rgb, "PNG", {"exif": exif}),
        (rgba, "PNG", {"icc_profile": bytes(300)}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) << 8), "PNG", {}),
        (rgb, "WEBP", {"exif": exif}),
        (rgba, "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(180)]}),
    ]
    files = []
    for image, name, options in kinds:
        stream = io.BytesIO()
        image.save(stream, name, **options)
        files.append(stream.getvalue())
    return files


def mutated(data: bytes, files: list[bytes], rng: random.Random) -> bytes:
    """Flipped bits, cut, doubled, moved and foreign parts; half of the changes fall on the header."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(len(changed), rng.choice((64, 10**9))) or 1)
        length = rng.choice((1, 2, 4, 8, 64, 500))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            changed[at : at + length] = b""
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 100))
        elif kind == 4:
            other = rng.choice(files)
            start = rng.randrange(len(other))
            changed[at:at] = other[start : start + length]
        elif kind == 5:
            changed[at : at + 4] = rng.choice(UINT32).to_bytes(4, rng.choice(("big", "little")))
        else:
            del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def file(files: list[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return rng.choice((b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP")) + rng.randbytes(
            rng.randrange(300)
        )
    return mutated(rng.choice(files), files, rng) if rng.random() < 0.95 else rng.choice(files)


def request(files: list[bytes], rng: random.Random) -> pb.DetectRequest:
    """Every field, each sometimes unset, valid or out of range."""
    message = pb.DetectRequest()
    chance = rng.random
    if chance() < 0.3:
        message.request_id = rng.choice(("a", "é" * 64, "é" * 65, "x" * 5000, "\0\n\x7f", "\U0001f600" * 33))
    if chance() < 0.5:
        message.image.encoded = file(files, rng)
    elif chance() < 0.8:
        height, width, channels = (rng.choice(UINT32) for _ in range(3))
        if chance() < 0.6:
            height, width, channels = rng.randrange(1, 30), rng.randrange(1, 30), rng.choice((1, 3))
        size = min(height * width * channels, 5000) + rng.choice((0, 0, 0, -1, 1))
        message.image.raw.CopyFrom(
            pb.RawImage(data=rng.randbytes(max(0, size)), height=height, width=width, channels=channels)
        )
    elif chance() < 0.5:
        message.image.SetInParent()
    if chance() < 0.4:
        message.options.false_positive_rate = rng.choice(RATES)
    if chance() < 0.3:
        message.options.heatmap = rng.choice(ENUMS)  # type: ignore[assignment]
    if chance() < 0.3:
        message.options.top_k = rng.choice(UINT32)
    if chance() < 0.1:
        message.timeout_ms = rng.choice(UINT32)
    for field in ("priority", "detector_version"):  # where this version of the contract has them
        if field in pb.DetectRequest.DESCRIPTOR.fields_by_name and chance() < 0.2:
            setattr(message, field, rng.choice(ENUMS) if field == "priority" else rng.choice(("", "x", "é" * 5000)))
    return message


class Fuzz:
    """Sends cases and counts what comes back."""

    def __init__(self, stub: detection_pb2_grpc.DetectionServiceStub, channel: grpc.aio.Channel, seed: int) -> None:
        self.statuses: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.slowest_s = self.standstill_s = 0.0
        self._stub, self._channel = stub, channel
        self._rng, self._files = random.Random(seed), samples()

    async def round(self) -> int:
        """A group of each kind; returns how many cases it was."""
        for case in (self._decode, self._detect, self._no_message):
            for _ in range(GROUP):
                started_s = time.monotonic()
                await case()
                self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
        await self._batch()
        await self._word()
        return 4 * GROUP + 1

    def _count(self, road: str, status: str, case: Callable[[], object]) -> None:
        self.statuses[f"{road} {status}"] += 1
        if status in FAULTS or status.startswith("crash") or (road, status) == ("long word", "RESOURCE_EXHAUSTED"):
            self.faults.append(f"{road} {status}: {case()!r:.300}")

    async def _decode(self) -> None:
        data = file(self._files, self._rng)
        try:
            decode(data, LIMITS)
            status = "OK"
        except ImageError as error:
            status = error.code
        except Exception as error:
            status = f"crash {type(error).__name__}"
        self._count("decoder", status, data.hex)

    def _message(self) -> pb.DetectRequest:
        return request(self._files, self._rng)

    async def _detect(self) -> None:
        message = self._message()
        await self._call("Detect", self._stub.Detect(message), lambda: message)

    async def _no_message(self) -> None:
        data = mutated(self._message().SerializeToString() or b"\0", self._files, self._rng)
        method = self._rng.choice(("Detect", "DetectBatch", "GetDetector"))
        call = self._channel.unary_unary(f"/heatward.v1.DetectionService/{method}")(data)
        await self._call("bytes", call, data.hex)

    async def _word(self) -> None:
        method, data = long_request(self._rng, LONGEST)
        async with watched() as seen:
            await self._call("long word", self._channel.unary_unary(method)(data), lambda: (method, data[:100]))
        self.standstill_s = max(self.standstill_s, seen.longest_s)

    async def _call(self, road: str, call: grpc.aio.UnaryUnaryCall, case: Callable[[], object]) -> None:
        try:
            await call
            status = "OK"
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        self._count(road, status, case)

    async def _batch(self) -> None:
        messages = [self._message() for _ in range(GROUP)]
        results = (await self._stub.DetectBatch(pb.DetectBatchRequest(requests=messages))).results
        for message, result in zip(messages, results, strict=True):
            status = "OK" if result.HasField("verdict") else code_pb2.Code.Name(result.status.code)
            if result.request_id != message.request_id:
                status = "crash another's answer"
            self._count("batch", status, message.__str__)


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    config = ServerConfig(
        port=0,
        metrics_port=None,
        threads=1,
        decode_workers=1,
        max_image_bytes=LIMITS.max_bytes,
        max_image_pixels=LIMITS.max_pixels,
    )
    app = App(config, lambda path, device: FakeDetector(cursed=None))
    await app.listen()
    await app.begin()
    process, done, resident = psutil.Process(), 0, []
    try:
        async with grpc.aio.insecure_channel(app.address) as channel:
            fuzz = Fuzz(detection_pb2_grpc.DetectionServiceStub(channel), channel, arguments.seed)
            started_s = time.monotonic()
            for tenth in range(11):  # the first one warms up
                while done < arguments.cases * tenth / 10:
                    done += await fuzz.round()
                resident.append(round(process.memory_info().rss / MIB))
            seconds = time.monotonic() - started_s
    finally:
        await app.close()
    return {
        "cases": done,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(fuzz.statuses.items())),
        "server at fault, or crashed": fuzz.faults[:10],
        "slowest case, s": round(fuzz.slowest_s, 3),
        "loop stood still, s": round(fuzz.standstill_s, 3),
        "memory MiB: ready, then each tenth": resident,
        "passed": not fuzz.faults
        and fuzz.slowest_s <= arguments.slowest_s
        and fuzz.standstill_s <= arguments.standstill_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--slowest-s", type=float, default=5.0, help="longest that one case may take (%(default)s)")
    parser.add_argument(
        "--standstill-s", type=float, default=1.0, help="longest that the event loop may stand still (%(default)s)"
    )
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")  # Pillow's, on broken EXIF
    report = asyncio.run(run(arguments))
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

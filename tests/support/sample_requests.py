"""Requests and pictures for the tests of the service."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from heatward.v1 import detection_pb2 as pb
from PIL import Image


def picture(label: int = 7, height: int = 8, width: int = 8) -> np.ndarray:
    """An image whose label, for the fake detector, is `label`."""
    return np.full((height, width, 3), label, np.uint8)


def png(pixels: np.ndarray | Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def spoiled() -> list[pb.Image]:
    """Images that cannot be answered, one of each kind."""
    photo = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8), format="JPEG")
    bomb = bytearray(png(picture(0)))
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    return [
        pb.Image(encoded=b"GET / HTTP/1.1"),
        pb.Image(encoded=b""),
        pb.Image(encoded=photo[: len(photo) // 2]),
        pb.Image(encoded=bytes(bomb)),
        pb.Image(encoded=png(picture(0), format="GIF")),
        pb.Image(),
        pb.Image(raw=pb.RawImage(data=b"x" * 11, height=2, width=2, channels=3)),
        pb.Image(raw=pb.RawImage(data=b"x", height=20_000, width=20_000, channels=3)),
        pb.Image(raw=pb.RawImage(channels=3)),
    ]


def encoded(data: bytes, request_id: str = "", **options: Any) -> pb.DetectRequest:
    return pb.DetectRequest(request_id=request_id, image=pb.Image(encoded=data), options=pb.Options(**options))


def raw(pixels: np.ndarray, request_id: str = "", **options: Any) -> pb.DetectRequest:
    height, width, channels = pixels.shape
    image = pb.RawImage(data=pixels.tobytes(), height=height, width=width, channels=channels)
    return pb.DetectRequest(request_id=request_id, image=pb.Image(raw=image), options=pb.Options(**options))


def fields_at_fault(status: status_pb2.Status) -> list[str]:
    """The fields that a status' BadRequest names."""
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(request):
            return [violation.field for violation in request.field_violations]
    return []


def status_of(error: Any) -> status_pb2.Status:
    """The rich status of a failed call."""
    found = rpc_status.from_call(_Call(error))
    if found is None:
        raise LookupError("no google.rpc.Status in the trailing metadata")
    return found


class _Call:
    """grpc_status reads a finished call; an AioRpcError says the same under other names."""

    def __init__(self, error: Any) -> None:
        self.code, self.details = error.code, error.details
        self.trailing_metadata = lambda: tuple(error.trailing_metadata())

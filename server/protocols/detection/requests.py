"""A `DetectRequest` from outside → field by field validation → **an `Ask`** → decoding → **(H, W, 3) pixels**.

Everything wrong with a request becomes a `RequestError` that names the field by its path from the top of the message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from heatward.v1 import detection_pb2 as pb
from numpy.typing import NDArray

from detector.classifier import Classifier
from detector.errors import ImageError
from detector.images import ImageLimits, decode, from_raw
from server.errors import RequestError
from server.inference.fair_queue import HIGH, LOW, NORMAL

__all__ = ["MAX_TOP_K", "Ask", "parse", "prepare"]

HEATMAPS, KNOWN_PRIORITIES = (frozenset(each.values()) for each in (pb.HeatmapFormat, pb.Priority))
PRIORITIES = {pb.PRIORITY_LOW: LOW, pb.PRIORITY_HIGH: HIGH}

MAX_TOP_K = 5
MAX_ID_BYTES = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid request whose image has not been decoded yet."""

    request_id: str
    field: str
    """Path of the image in the request."""
    image_bytes: int
    """As it came."""
    raw_size: tuple[int, int] | None
    """(H, W) of raw pixels."""
    read: Callable[[ImageLimits], NDArray[np.uint8]]
    """Gives (H, W, 3) pixels."""
    false_positive_rate: float
    heatmap: int
    """A `HeatmapFormat`."""
    top_k: int
    priority: int


def parse(request: pb.DetectRequest, path: str, *, default_rate: float, smallest_rate: float) -> Ask:
    """Validates everything but the image's content.

    Args:
        request: One image with its options.
        path: Where it stands in the call's message: "" or "requests[3].".
        default_rate: False-positive rate where the request names none.
        smallest_rate: The smallest one that the calibration can promise.

    Raises:
        RequestError: A field is missing or out of range.
    """
    if len(request.request_id.encode()) > MAX_ID_BYTES:
        raise RequestError(f"{path}request_id", f"at most {MAX_ID_BYTES} bytes")
    options = request.options
    rate = options.false_positive_rate if options.HasField("false_positive_rate") else default_rate
    if not 0 < rate < 1:
        raise RequestError(f"{path}options.false_positive_rate", f"between 0 and 1 (exclusive), but came {rate}")
    if rate < smallest_rate:
        raise RequestError(
            f"{path}options.false_positive_rate",
            f"{rate} is less than the detector's calibration can promise; the smallest rate is {smallest_rate:.3g}",
        )
    if options.heatmap not in HEATMAPS:
        raise RequestError(f"{path}options.heatmap", f"unknown format {options.heatmap}")
    if request.priority not in KNOWN_PRIORITIES:
        raise RequestError(f"{path}priority", f"unknown priority {request.priority}")
    field, image_bytes, raw_size, read = _image(request.image, path)
    return Ask(
        request.request_id,
        field,
        image_bytes,
        raw_size,
        read,
        rate,
        options.heatmap,
        min(options.top_k or MAX_TOP_K, MAX_TOP_K),
        PRIORITIES.get(request.priority, NORMAL),
    )


def prepare(ask: Ask, classifier: Classifier, limits: ImageLimits) -> tuple[NDArray[np.uint8], float]:
    """Decodes and resizes; runs on a decode thread.

    Returns:
        (H, W, 3) of the classifier's input size, and the seconds it took.

    Raises:
        RequestError: The image cannot be used.
    """
    started_s = time.monotonic()
    try:
        image = classifier.fit(ask.read(limits))
    except ImageError as error:
        raise RequestError(ask.field, str(error)) from error
    return image, time.monotonic() - started_s


def _image(
    image: pb.Image, path: str
) -> tuple[str, int, tuple[int, int] | None, Callable[[ImageLimits], NDArray[np.uint8]]]:
    source = image.WhichOneof("source")
    if source == "encoded":
        data = image.encoded
        return f"{path}image.encoded", len(data), None, lambda limits: decode(data, limits)
    if source != "raw":
        raise RequestError(f"{path}image", "required: set encoded (a JPEG, PNG or WebP file) or raw")
    raw = image.raw
    height, width, channels = raw.height, raw.width, raw.channels
    for name, side in (("height", height), ("width", width)):
        if side < 1:
            raise RequestError(f"{path}image.raw.{name}", "at least 1 pixel, but came 0")
    if channels not in (1, 3):
        raise RequestError(f"{path}image.raw.channels", f"3 (RGB) or 1 (grey), but came {channels}")
    pixels = raw.data  # a copy
    if len(pixels) != height * width * channels:
        raise RequestError(
            f"{path}image.raw.data",
            f"{height} x {width} x {channels} takes {height * width * channels} bytes, but came {len(pixels)}",
        )
    return (
        f"{path}image.raw",
        len(pixels),
        (height, width),
        lambda limits: from_raw(pixels, height, width, channels, limits),
    )

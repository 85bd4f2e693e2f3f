"""A `DetectRequest` from outside → field by field validation → **an `InferenceRequest`**.

Everything wrong with a request becomes a `RequestError` that names the field by its path from the top of the message.
"""

from __future__ import annotations

from heatward.v1 import detection_pb2 as pb

from server.access.disclosure import Disclosure
from server.errors import RequestError
from server.inference.image import ImageSource, encoded, raw
from server.inference.request import HIGH, LOW, NORMAL, InferenceRequest
from server.models.served_model import ServedModel
from server.protocols.options import checked_effort, checked_error_rate, checked_id, checked_rate

__all__ = ["checked_options", "to_inference"]

HEATMAPS, KNOWN_PRIORITIES = (frozenset(each.values()) for each in (pb.HeatmapFormat, pb.Priority))
PRIORITIES = {pb.PRIORITY_LOW: LOW, pb.PRIORITY_HIGH: HIGH}


def to_inference(
    request: pb.DetectRequest, path: str, model: ServedModel, disclosure: Disclosure = Disclosure.FULL
) -> InferenceRequest:
    """Validates everything but the image's content.

    Args:
        request: One image with its options.
        path: Where it stands in the call's message: "" or "requests[3].".
        model: Judges it.
        disclosure: How much the caller is told.

    Raises:
        RequestError: A field is missing or out of range.
    """
    request_id = checked_id(request.request_id, f"{path}request_id")
    options = request.options
    rate, borne, model = checked_options(options, f"{path}options", model, disclosure)
    if options.heatmap not in HEATMAPS:
        raise RequestError(f"{path}options.heatmap", f"unknown format {options.heatmap}")
    if request.priority not in KNOWN_PRIORITIES:
        raise RequestError(f"{path}priority", f"unknown priority {request.priority}")
    return InferenceRequest(
        model,
        _image(request.image, f"{path}image"),
        rate,
        options.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY and disclosure is Disclosure.FULL,
        PRIORITIES.get(request.priority, NORMAL),
        request.timeout_ms,
        request_id,
        borne,
    )


def checked_options(
    options: pb.Options, path: str, model: ServedModel, disclosure: Disclosure
) -> tuple[float, float | None, ServedModel]:
    """What the model is asked for: the false-positive rate, the share of wrong predictions, the model with its effort.

    Raises:
        RequestError: It cannot do that.
    """
    asked = options.false_positive_rate if options.HasField("false_positive_rate") else None
    rate = checked_rate(asked, model, f"{path}.false_positive_rate", disclosure)
    borne = options.max_error_rate if options.HasField("max_error_rate") else None
    borne = checked_error_rate(borne, model, f"{path}.max_error_rate", disclosure)
    return rate, borne, checked_effort(options.look_for_patches, model, f"{path}.look_for_patches", disclosure)


def _image(image: pb.Image, path: str) -> ImageSource:
    source = image.WhichOneof("source")
    if source == "encoded":
        return encoded(image.encoded, f"{path}.encoded")
    if source != "raw":
        raise RequestError(path, "required: set encoded (a JPEG, PNG or WebP file) or raw")
    message = image.raw
    height, width, channels = message.height, message.width, message.channels
    for name, side in (("height", height), ("width", width)):
        if side < 1:
            raise RequestError(f"{path}.raw.{name}", "at least 1 pixel, but came 0")
    if channels not in (1, 3):
        raise RequestError(f"{path}.raw.channels", f"3 (RGB) or 1 (grey), but came {channels}")
    pixels = message.data  # a copy
    if len(pixels) != height * width * channels:
        raise RequestError(
            f"{path}.raw.data",
            f"{height} x {width} x {channels} takes {height * width * channels} bytes, but came {len(pixels)}",
        )
    return raw(pixels, height, width, channels, f"{path}.raw")

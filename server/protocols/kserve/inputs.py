"""A KServe v2 `ModelInferRequest` → **an `InferenceRequest` for each of its images**, with the options they share.

Everything wrong with the request becomes a `RequestError` that names the field by its path from the top of the message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heatward.inference import grpc_service_pb2 as pb

from detector.images import from_raw
from detector.text import nearest, printable
from server.access.disclosure import Disclosure
from server.errors import RequestError
from server.inference.image import ImageSource, encoded, raw
from server.inference.request import HIGH, LOW, NORMAL, InferenceRequest
from server.models.served_model import ServedModel
from server.protocols.kserve.tensors import elements, shape_of
from server.protocols.options import MAX_TOP_K, checked_error_rate, checked_id, checked_rate

__all__ = ["Images", "Options", "images", "options", "unknown"]

INPUTS = {"image": "UINT8", "image_bytes": "BYTES"}
WHOLE = ("int64_param", "uint64_param")
PARAMETERS: Mapping[str, Sequence[str]] = {
    "false_positive_rate": ("double_param",),
    "max_error_rate": ("double_param",),
    "top_k": WHOLE,
    "timeout": WHOLE,
    "priority": WHOLE,
}
PRIORITIES = (NORMAL, HIGH, NORMAL, LOW)
ELSEWHERE = ("shared_memory_region", "classification")
"""Parameters of a tensor that would have it lie or look different from what we read and write."""
UINT32_MAX = 2**32 - 1
PIECE = 2**16


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a request. Each is cut out of its tensor when it is asked for, so that few are held twice."""

    count: int
    at: Callable[[int], ImageSource]


@dataclass(slots=True)
class Options:
    """What the images of a request share."""

    request_id: str
    false_positive_rate: float | None = None
    top_k: int = MAX_TOP_K
    timeout_ms: int = 0
    priority: int = NORMAL
    max_error_rate: float | None = None

    def checked(self, model: ServedModel, disclosure: Disclosure) -> tuple[float, float | None]:
        """The false-positive rate and the share of wrong predictions that the model is asked for.

        Raises:
            RequestError: It cannot promise that.
        """
        return (
            checked_rate(self.false_positive_rate, model, "parameters[false_positive_rate]", disclosure),
            checked_error_rate(self.max_error_rate, model, "parameters[max_error_rate]", disclosure),
        )

    def to_inference(self, source: ImageSource, model: ServedModel, disclosure: Disclosure) -> InferenceRequest:
        """The request of one image, of a caller who is told so much.

        Raises:
            RequestError: An option is out of range.
        """
        request_id = checked_id(self.request_id, "id")
        rate, borne = self.checked(model, disclosure)
        return InferenceRequest(
            model, source, rate, priority=self.priority, request_id=request_id, max_error_rate=borne
        )


def images(request: pb.ModelInferRequest, limit: int) -> Images:
    """Finds the images; does not look into them.

    Args:
        request: Has one input, `image` or `image_bytes`.
        limit: Most images.

    Raises:
        RequestError: There is no such input, or its datatype, shape or length is wrong.
    """
    if len(request.inputs) != 1:
        raise RequestError("inputs", f"one, image or image_bytes, but came {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name not in INPUTS:
        raise RequestError("inputs[0].name", unknown(tensor.name, INPUTS))
    if tensor.datatype != INPUTS[tensor.name]:
        raise RequestError("inputs[0].datatype", f"{INPUTS[tensor.name]}, but came '{printable(tensor.datatype)}'")
    refuse_elsewhere(tensor.parameters, "inputs[0]")
    shape = shape_of(request, 0)
    if tensor.name == "image" and len(shape) == 3:
        shape = [1, *shape]
    return (_pixels if tensor.name == "image" else _files)(request, shape, limit)


def options(request: pb.ModelInferRequest) -> Options:
    """Reads the request's id and parameters.

    Raises:
        RequestError: A parameter is unknown, of the wrong type or out of range.
    """
    asked = Options(request.id)
    for name, parameter in request.parameters.items():
        field = f"parameters[{printable(name)}]"
        if name not in PARAMETERS:
            raise RequestError(field, unknown(name, PARAMETERS))
        kind = parameter.WhichOneof("parameter_choice")
        if kind not in PARAMETERS[name]:
            raise RequestError(field, f"{' or '.join(PARAMETERS[name])}, but came {kind or 'nothing'}")
        value: Any = getattr(parameter, kind)
        if name == "false_positive_rate":
            asked.false_positive_rate = value
        elif name == "max_error_rate":
            asked.max_error_rate = value
        elif value < 0:
            raise RequestError(field, f"0 or more, but came {value}")
        elif name == "top_k":
            asked.top_k = min(value or MAX_TOP_K, MAX_TOP_K)
        elif name == "timeout":
            asked.timeout_ms = min(math.ceil(value / 1000), UINT32_MAX)
        elif value < len(PRIORITIES):
            asked.priority = PRIORITIES[value]
        else:
            raise RequestError(field, f"from 1 (first) to {len(PRIORITIES) - 1} (last), but came {value}")
    return asked


def unknown(word: str, known: Collection[str]) -> str:
    """Says that there is no such word, and which comes near."""
    return f"unknown: '{printable(word)}'{nearest(word, known, cutoff=0.0) or '.'} There is {', '.join(known)}"


def refuse_elsewhere(parameters: Collection[str], field: str) -> None:
    """Refuses parameters of a tensor that we cannot honour but must not ignore.

    Raises:
        RequestError: There is one.
    """
    for name in ELSEWHERE:
        if name in parameters:
            raise RequestError(f"{field}.parameters[{name}]", "not supported here")


def _pixels(request: pb.ModelInferRequest, shape: list[int], limit: int) -> Images:
    if len(shape) != 4 or shape[3] not in (1, 3) or min(shape) < 1:
        came = list(request.inputs[0].shape)
        raise RequestError("inputs[0].shape", f"[N, H, W, 3] or [H, W, 3]; grey: 1 in place of 3, but came {came}")
    count, height, width, channels = shape
    _refuse_number(count, limit)
    for name, side in (("height", height), ("width", width)):
        if side > UINT32_MAX:
            raise RequestError("inputs[0].shape", f"a {name} of at most {UINT32_MAX}, but came {side}")
    values, size = elements(request, 0), height * width * channels

    def at(index: int) -> ImageSource:
        field, start, stop = f"inputs[0] image {index}", index * size, (index + 1) * size
        if isinstance(values, bytes):
            return raw(values[start:stop], height, width, channels, field)

        def pixels() -> bytes:  # one by one: where images are decoded, and in pieces, between which other threads run
            try:
                pieces = [bytes(values[place : min(place + PIECE, stop)]) for place in range(start, stop, PIECE)]
            except ValueError:  # typed contents have room for more than a byte
                raise RequestError(field, "a pixel's value is more than 255") from None
            return b"".join(pieces)

        return ImageSource(field, size, lambda limits: from_raw(pixels(), height, width, channels, limits))

    return Images(count, at)


def _files(request: pb.ModelInferRequest, shape: list[int], limit: int) -> Images:
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise RequestError("inputs[0].shape", f"[N] or [N, 1], but came {shape}")
    _refuse_number(shape[0], limit)
    values = elements(request, 0)
    return Images(len(values), lambda index: encoded(values[index], f"inputs[0] image {index}"))


def _refuse_number(count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise RequestError("inputs[0].shape", f"between 1 and {limit} images, but came {count}")

"""A request to the guarded model → **its images, as heatward judges them**: files, or 8-bit RGB pixels.

Floating-point pixels x came out of 8-bit ones p by x = (p / 255 · scale − mean) / std; undone here, and rounded.
What is no such image is refused: a tensor that heatward misreads would be judged as another picture than upstream sees.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from heatward.inference import grpc_service_pb2 as kserve
from numpy.typing import NDArray

from detector.images import ImageLimits, from_raw
from detector.text import printable
from server.config import ServerConfig
from server.errors import RequestError
from server.inference.image import ImageSource, encoded
from server.protocols.kserve.inputs import PIECE, Images, refuse_elsewhere
from server.protocols.kserve.tensors import DTYPES, elements, shape_of

__all__ = ["images_of"]

FLOATS = ("FP16", "BF16", "FP32", "FP64")
TOLERANCE = 1.0
"""By how much rounding may bring a pixel outside 0…255: one level, for the 8 bits of bfloat16."""
NAMED = 8
"""Inputs that an error names."""


def images_of(request: kserve.ModelInferRequest, config: ServerConfig) -> Images:
    """Finds the images of a request; a pixel out of range shows only where its image is read.

    Args:
        request: To the guarded model.
        config: Which input holds them, and how clients prepare it.

    Raises:
        RequestError: They cannot be read; says why.
    """
    index = _the_input(request, config.upstream_input)
    tensor = request.inputs[index]
    field, shape = f"input '{printable(tensor.name)}'", shape_of(request, index)
    if tensor.datatype not in ("UINT8", "BYTES", *FLOATS):
        raise RequestError(
            field, f"of UINT8, BYTES or {', '.join(FLOATS)} to be judged, but came '{printable(tensor.datatype)}'"
        )
    if not shape or min(shape) < 1:
        raise RequestError(field, f"a shape of 1 and more, but came {shape}")
    refuse_elsewhere(tensor.parameters, field)
    if tensor.datatype == "BYTES":
        _refuse_many(math.prod(shape), config, field)
    values = elements(request, index)
    if tensor.datatype == "BYTES":
        found = Images(len(values), lambda place: encoded(values[place], f"images[{place}].image.encoded"))
    else:
        images = _nhwc(_array(tensor.datatype, values, field), tuple(shape), config.upstream_layout, field)
        found = Images(len(images), lambda place: _image(images[place], config, f"{field} image {place}", place))
    _refuse_many(found.count, config, field)
    return found


def _refuse_many(count: int, config: ServerConfig, field: str) -> None:
    if count > config.images_per_call:
        raise RequestError(field, f"at most {config.images_per_call} images in a call, but came {count}")


def _the_input(request: kserve.ModelInferRequest, name: str | None) -> int:
    """The place of the one input of that name, or of the only input."""
    found = [place for place, tensor in enumerate(request.inputs) if name in (None, tensor.name)]
    if len(found) != 1:
        wanted = f"one, {name!r}" if name else "one, or upstream_input set to that which holds images"
        names = ", ".join(f"'{printable(tensor.name)}'" for tensor in request.inputs[:NAMED])
        raise RequestError("inputs", f"{wanted}, but came {len(request.inputs)}: {names}")
    return found[0]


def _array(datatype: str, values: Any, field: str) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    try:
        if isinstance(values, bytes):
            array = np.frombuffer(values, dtype)
        else:  # in pieces, between which other threads run
            pieces = [values[place : place + PIECE] for place in range(0, len(values), PIECE)]
            array = np.concatenate([np.array(piece, dtype) for piece in pieces])
    except OverflowError:  # typed contents have room for more than a byte
        raise RequestError(field, "a pixel's value is more than 255") from None
    return (array.astype("<u4") << 16).view("<f4") if datatype == "BF16" else array  # the upper half of a float32


def _nhwc(array: NDArray[Any], shape: tuple[int, ...], layout: str, field: str) -> NDArray[Any]:
    """(N, H, W, C) from [N,H,W,C], [N,C,H,W], [H,W,C] or [C,H,W]."""
    if len(shape) == 3:
        shape = (1, *shape)
    last = len(shape) == 4 and shape[3] in (1, 3) and layout != "nchw"
    first = len(shape) == 4 and shape[1] in (1, 3) and layout != "nhwc"
    if last == first:
        raise RequestError(
            field, f"[N,H,W,C] or [N,C,H,W] of 1 or 3 channels (upstream_layout is {layout}), but came {list(shape)}"
        )
    return array.reshape(shape) if last else array.reshape(shape).transpose(0, 2, 3, 1)


def _image(pixels: NDArray[Any], config: ServerConfig, field: str, place: int) -> ImageSource:
    height, width, channels = pixels.shape

    def read(limits: ImageLimits) -> NDArray[np.uint8]:
        eight_bit = pixels if pixels.dtype == np.uint8 else _eight_bit(pixels, config, field)
        return from_raw(eight_bit.tobytes(), height, width, channels, limits)

    return ImageSource(f"images[{place}].image.raw", pixels.size, read)


def _eight_bit(pixels: NDArray[Any], config: ServerConfig, field: str) -> NDArray[np.uint8]:
    """Undoes std, mean and scale."""
    mean, std = (np.array(each, np.float32) for each in (config.upstream_mean, config.upstream_std))  # (1,) or (3,)
    if pixels.shape[-1] < max(len(mean), len(std)):
        raise RequestError(field, "3 channels, as upstream_mean or upstream_std has, but came 1")
    with np.errstate(all="ignore"):  # what overflows is found below
        levels = (pixels.astype(np.float32) * std + mean) * np.float32(255 / config.upstream_scale)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= -TOLERANCE and high <= 255 + TOLERANCE):  # true for NaN, too
        raise RequestError(
            field,
            f"between 0 and 255 once upstream_std, upstream_mean and upstream_scale are undone, but came {low:.4g} to "
            f"{high:.4g}: set them to what clients do",
        )
    eight_bit: NDArray[np.uint8] = np.rint(levels).clip(0, 255).astype(np.uint8)
    return eight_bit

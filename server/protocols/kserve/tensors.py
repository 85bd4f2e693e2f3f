"""Tensors as the KServe v2 protocol (Open Inference Protocol) carries them.

In: an input, from `raw_input_contents` or from its typed `contents` → **its elements**. Out: a numpy array → either
form. Raw is little endian and row-major; an element of BYTES stands behind its length as a uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from heatward.inference import grpc_service_pb2 as pb
from numpy.typing import NDArray

from detector.text import printable
from server.errors import RequestError

__all__ = ["elements", "pack", "put", "shape_of", "unpack"]

TYPES = {
    "BOOL": ("?", "bool_contents"),
    "UINT8": ("u1", "uint_contents"),
    "UINT16": ("<u2", "uint_contents"),
    "UINT32": ("<u4", "uint_contents"),
    "UINT64": ("<u8", "uint64_contents"),
    "INT8": ("i1", "int_contents"),
    "INT16": ("<i2", "int_contents"),
    "INT32": ("<i4", "int_contents"),
    "INT64": ("<i8", "int64_contents"),
    "FP16": ("<f2", ""),
    "BF16": ("<u2", ""),  # numpy has no bfloat16: its bits
    "FP32": ("<f4", "fp32_contents"),
    "FP64": ("<f8", "fp64_contents"),
    "BYTES": ("O", "bytes_contents"),
}
"""numpy's name of each, and where it may come typed."""
DTYPES = {name: dtype for name, (dtype, _) in TYPES.items()}
CONTENTS = {name: field for name, (_, field) in TYPES.items() if field}
MOST_DIMENSIONS = 8
"""Triton's limit, too."""


def pack(items: Iterable[bytes]) -> bytes:
    """Writes a tensor of BYTES."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def unpack(data: bytes, most: float = math.inf) -> list[bytes]:
    """Reads a tensor of BYTES; of one with more than `most` elements, one more than that.

    Raises:
        ValueError: It ends in the middle of an element.
    """
    items: list[bytes] = []
    place = 0
    while place < len(data) and len(items) <= most:
        start = place + 4
        place = start + int.from_bytes(data[place:start], "little")
        if place > len(data) or start > len(data):
            raise ValueError(f"element {len(items)} goes on past the end of the {len(data)} bytes")
        items.append(data[start:place])
    return items


def shape_of(request: pb.ModelInferRequest, index: int) -> list[int]:
    """The shape of an input.

    Raises:
        RequestError: It has more dimensions than any tensor.
    """
    shape = request.inputs[index].shape
    if len(shape) > MOST_DIMENSIONS:
        raise RequestError(f"inputs[{index}].shape", f"at most {MOST_DIMENSIONS} dimensions, but came {len(shape)}")
    return list(shape)


def elements(request: pb.ModelInferRequest, index: int) -> Sequence[Any]:
    """The elements of an input: those of BYTES one by one, numbers as they lie in raw bytes or as they came typed.

    Raises:
        RequestError: They do not fit the shape or the datatype, or come in both forms or in neither.
    """
    tensor, raw, shape = request.inputs[index], request.raw_input_contents, shape_of(request, index)
    size, unit = 1, "elements"
    if not raw and tensor.datatype not in CONTENTS:
        raise RequestError(f"inputs[{index}]", f"{printable(tensor.datatype)} comes in raw_input_contents only")
    if not raw:
        field = f"inputs[{index}].contents.{CONTENTS[tensor.datatype]}"
        values: Sequence[Any] = getattr(tensor.contents, CONTENTS[tensor.datatype])
    elif tensor.HasField("contents") or len(raw) != len(request.inputs):
        raise RequestError(
            "raw_input_contents", f"empty, or one for each of {len(request.inputs)} inputs without contents"
        )
    else:
        field = f"raw_input_contents[{index}]"
        try:
            values = unpack(raw[index], math.prod(shape)) if tensor.datatype == "BYTES" else raw[index]
        except ValueError as error:
            raise RequestError(field, f"BYTES, each behind its length: {error}") from None
        if tensor.datatype != "BYTES":
            size, unit = np.dtype(DTYPES[tensor.datatype]).itemsize, "bytes"
    if len(values) != (count := math.prod(shape) * size):
        came = "more" if size == 1 and len(values) > count else len(values)
        raise RequestError(field, f"shape {shape} takes {count} {unit}, but came {came}")
    return values


def put(response: pb.ModelInferResponse, name: str, datatype: str, values: Sequence[Any], *, raw: bool) -> None:
    """Adds an output.

    Args:
        response: Gets it.
        name: Of the output.
        datatype: One of `CONTENTS`.
        values: Numbers, bytes or lists or arrays of them: row upon row.
        raw: Into `raw_output_contents`.
    """
    array: NDArray[Any] = np.array(values, DTYPES[datatype])
    tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    if not raw:
        getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    elif datatype == "BYTES":
        response.raw_output_contents.append(pack(array.ravel()))
    else:
        response.raw_output_contents.append(array.tobytes())

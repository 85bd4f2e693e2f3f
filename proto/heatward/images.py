"""Whatever a caller calls an image goes in, the contract's `Image` message comes out.

numpy and Pillow are recognised by their objects and never imported on the caller's behalf: who passes their objects
has them loaded.
"""

from __future__ import annotations

import inspect
import io
import os
from typing import Any, Protocol, TypeAlias

from heatward.client.checks import is_pil
from heatward.pictures import from_pil, raw
from heatward.v1 import detection_pb2 as pb

__all__ = ["ImageInput", "image_message"]


class SupportsToBytes(Protocol):
    """A numpy array or a PIL image."""

    def tobytes(self) -> bytes: ...


class SupportsRead(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes: ...


ImageInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | SupportsRead | SupportsToBytes
"""A path, the bytes of an image file, an open file, a PIL image, or a uint8 array: (H, W, 3) RGB, or (H, W) grey."""

KINDS = "a path, the bytes of an image file, an open file, a PIL image or a numpy uint8 array (height, width, 3)"
LARGEST_BYTES = 2**31 - 2**16
"""What a protobuf message can hold."""

DTYPE_ADVICE = {
    "b": "use array.astype('uint8') * 255",
    "f": "for values in [0, 1] use (array * 255).round().astype('uint8')",
    "u": "for 16 bits use (array >> 8).astype('uint8')",
    "i": "where its values are 0 to 255 use array.astype('uint8')",
}


def image_message(image: ImageInput) -> pb.Image:
    """Packs an image for sending.

    Raises:
        OSError: The file cannot be read.
        TypeError: Not one of the kinds in `ImageInput`.
        ValueError: An array or PIL image whose shape or mode does not say what it shows.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        if isinstance(image, memoryview) and image.ndim != 1:
            raise TypeError(f"a memoryview of {image.ndim} dimensions is no image file: pass the array itself")
        return _encoded(bytes(image))
    if isinstance(image, (str, os.PathLike)):
        if "\0" in os.fsdecode(image):
            raise ValueError("a path has no NUL character: an image file's content is bytes, not str")
        with open(image, "rb") as file:
            _check_size(os.fstat(file.fileno()).st_size)
            return _encoded(file.read())
    if is_pil(image):
        return from_pil(image)
    if hasattr(image, "__array_interface__"):
        return _from_array(image)
    if hasattr(image, "read"):
        return _encoded(_read(image))
    raise TypeError(f"an image is {KINDS}; this is a {_kind(image)}{_hint(image)}")


def _encoded(data: bytes) -> pb.Image:
    _check_size(len(data))
    return pb.Image(encoded=data)


def _check_size(count: int) -> None:
    if count > LARGEST_BYTES:
        raise ValueError(f"the image has {count} bytes, more than any server takes: send a smaller one")


def _read(file: Any) -> bytes:
    text = f"a {_kind(file)} gives text, not the bytes of an image file: open it with mode 'rb'"
    if isinstance(file, io.TextIOBase):
        raise TypeError(text)
    try:
        data = file.read()
    except UnicodeDecodeError:
        raise TypeError(text) from None
    if inspect.iscoroutine(data):
        data.close()
        raise TypeError(f"a {_kind(file)} is read asynchronously: pass `await file.read()`")
    if isinstance(data, str):
        raise TypeError(text)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"an image is {KINDS}; read() of this {_kind(file)} gave a {_kind(data)}")
    if not data:
        raise ValueError(f"the {_kind(file)} has nothing left to read: for its beginning use file.seek(0)")
    return bytes(data)


def _from_array(array: Any) -> pb.Image:
    if hasattr(array, "mask") and hasattr(array, "filled"):
        raise ValueError("a masked array does not say what its masked pixels show: use array.filled(value)")
    interface = array.__array_interface__
    shape, kind = tuple(interface["shape"]), interface["typestr"]
    if kind != "|u1":
        advice = DTYPE_ADVICE.get(kind[1], "use an array of dtype uint8")
        raise ValueError(
            f"an image array holds uint8 (0 to 255), this one holds {getattr(array, 'dtype', kind)}: {advice}"
        )
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(
            f"an image array has the shape (height, width, 3), or (height, width) for grey; this one has {shape}: "
            "for (3, height, width) use array.transpose(1, 2, 0), for an alpha channel drop it: array[..., :3]"
        )
    if 0 in shape:
        raise ValueError(f"an image array of shape {shape} has no pixels")
    if not hasattr(array, "tobytes"):
        raise TypeError(f"an image is {KINDS}; this is a {_kind(array)}: try numpy.asarray(image)")
    _check_size(shape[0] * shape[1] * shape[2])
    return raw(array.tobytes(), *shape)


def _hint(image: Any) -> str:
    if hasattr(image, "detach"):
        return ": try tensor.permute(1, 2, 0).mul(255).round().byte().cpu().numpy()"
    if hasattr(image, "__cuda_array_interface__"):
        return ": try array.get()"
    if isinstance(image, (list, tuple)):
        return ": for several images use detect_batch"
    return ": try numpy.asarray(image)" if hasattr(image, "__array__") or hasattr(image, "__dlpack__") else ""


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"

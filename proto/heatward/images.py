"""Whatever a caller calls an image goes in, the contract's `Image` message comes out.

numpy and Pillow are recognised by their objects and never imported on the caller's behalf: who passes their objects
has them loaded.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from heatward.v1 import detection_pb2 as pb

__all__ = ["ImageInput", "image_message"]


class SupportsToBytes(Protocol):
    """A numpy array or a PIL image."""

    def tobytes(self) -> bytes: ...


ImageInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | SupportsToBytes
"""A path, the bytes of an image file, a PIL image, or a uint8 array (H, W, 3) or (H, W)."""

PIL_SENT_RAW = ("RGB", "L")
PIL_SENT_AS_PNG = ("RGBA", "LA", "PA", "P", "1", "I;16")
"""Transparency, palettes and 16 bits are left to the server, so that files and PIL images get the same treatment."""
PIL_CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La")


def image_message(image: ImageInput) -> pb.Image:
    """Packs an image for sending.

    Raises:
        OSError: The file cannot be read.
        TypeError: Not one of the kinds in `ImageInput`.
        ValueError: An array or PIL image whose shape or mode does not say what it shows.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return pb.Image(encoded=bytes(image))
    if isinstance(image, (str, os.PathLike)):
        return pb.Image(encoded=Path(image).read_bytes())
    if any(kind.__module__.partition(".")[0] == "PIL" for kind in type(image).__mro__):
        return _from_pil(image)
    if hasattr(image, "__array_interface__"):
        return _from_array(image)
    hint = ": try tensor.permute(1, 2, 0).mul(255).round().byte().numpy()" if hasattr(image, "detach") else ""
    raise TypeError(
        "an image is a path, the bytes of an image file, a PIL image or a numpy uint8 array (H, W, 3); "
        f"this is a {type(image).__module__}.{type(image).__qualname__}{hint}"
    )


def _from_array(array: Any) -> pb.Image:
    interface = array.__array_interface__
    shape, kind = tuple(interface["shape"]), interface["typestr"]
    if kind != "|u1":
        raise ValueError(
            f"an image array holds uint8 (0 to 255), this one holds {kind[1:]!r}: "
            "for values in [0, 1] use (array * 255).round().astype('uint8')"
        )
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(
            f"an image array has the shape (height, width, 3), or (height, width) for grey; this one has {shape}: "
            "for (3, height, width) use array.transpose(1, 2, 0), for an alpha channel drop it: array[..., :3]"
        )
    return _raw(array.tobytes(), *shape)


def _from_pil(image: Any) -> pb.Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)  # as the server does with files
    if upright.mode in PIL_CONVERTED:
        upright = upright.convert("RGB")
    if upright.mode in PIL_SENT_RAW:
        width, height = upright.size
        return _raw(upright.tobytes(), height, width, len(upright.mode))
    if upright.mode in PIL_SENT_AS_PNG:
        file = io.BytesIO()
        upright.save(file, format="PNG", compress_level=1)
        return pb.Image(encoded=file.getvalue())
    raise ValueError(f"a PIL image of mode {upright.mode!r} has no fixed range of values: convert it to 'RGB' first")


def _raw(data: bytes, height: int, width: int, channels: int) -> pb.Image:
    return pb.Image(raw=pb.RawImage(data=data, height=height, width=width, channels=channels))

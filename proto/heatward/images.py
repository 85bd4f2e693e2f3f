"""Whatever a caller calls an image goes in, the contract's `Image` message comes out.

numpy and Pillow are recognised by their objects and never imported on the caller's behalf: who passes their objects
has them loaded. A PIL image is sent as the same picture that its file would be: transparency, palettes and 16 bits
travel as PNG and are left to the server, which treats them as it does in files; everything else as pixels.
"""

from __future__ import annotations

import inspect
import io
import os
from typing import Any, Protocol, TypeAlias

from heatward.v1 import detection_pb2 as pb

__all__ = ["ImageInput", "image_message", "is_pil"]


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

ORIENTATION = 0x0112
UPRIGHT = (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90",
)  # fmt: skip
"""What undoes the orientations 2 to 8."""
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
TRANSPARENCY: dict[str, type | tuple[type, ...]] = {"1": int, "L": int, "P": (int, bytes), "RGB": tuple}
"""What a PNG's tRNS (in `info`; a GIF's transparent colour, too) is in each mode that may have one."""


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
        return _from_pil(image)
    if hasattr(image, "__array_interface__"):
        return _from_array(image)
    if hasattr(image, "read"):
        return _encoded(_read(image))
    raise TypeError(f"an image is {KINDS}; this is a {_kind(image)}{_hint(image)}")


def is_pil(value: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "PIL" for kind in type(value).__mro__)


def _encoded(data: bytes) -> pb.Image:
    _check_size(len(data))
    return pb.Image(encoded=data)


def _check_size(count: int) -> None:
    if count > LARGEST_BYTES:
        raise ValueError(f"the image has {count} bytes, more than any server takes: send a smaller one")


def _read(file: Any) -> bytes:
    text = f"a {_kind(file)} gives text, not the bytes of an image file: open it with mode 'rb'"
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
    return _raw(array.tobytes(), *shape)


def _from_pil(image: Any) -> pb.Image:
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's photograph has others behind it
        raise ValueError(f"a PIL image of {image.n_frames} frames is no single picture: send one of them, image.copy()")
    try:
        return _packed(_upright(image))
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow may raise anything over a damaged file
        raise ValueError(f"the PIL image of mode {image.mode!r} cannot be read: {error}") from error


def _raw(data: bytes, height: int, width: int, channels: int) -> pb.Image:
    return pb.Image(raw=pb.RawImage(data=data, height=height, width=width, channels=channels))


def _upright(image: Any) -> Any:
    """As the server turns files."""
    from PIL.Image import Transpose

    image.load()  # the orientation may stand behind the pixels
    try:
        orientation = image.getexif().get(ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # broken EXIF does not make the picture unreadable
        orientation = None
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        return image.transpose(Transpose[UPRIGHT[orientation - 2]])
    return image


def _packed(image: Any) -> pb.Image:
    mode = image.mode
    if mode == "F":
        raise ValueError("a PIL image of mode 'F' has no fixed range of values: convert it to 'RGB' first")
    if mode.startswith("I"):
        return _sixteen_bits(image)
    if mode in WITH_ALPHA:
        straight = image.convert("LA") if mode == "La" else image
        return _png(straight.convert("RGBA"))
    transparency = image.info.get("transparency")
    if mode in TRANSPARENCY and transparency is not None:
        return _png(image if isinstance(transparency, TRANSPARENCY[mode]) else image.convert("RGBA"))
    if mode in ("1", "P"):
        return _png(image)
    if mode != "L":
        image = image.convert("RGB")
    return _raw(image.tobytes(), image.height, image.width, len(image.mode))


def _sixteen_bits(image: Any) -> pb.Image:
    wide = image.convert("I")
    darkest, brightest = wide.getextrema()
    if darkest < 0 or brightest > 65535:
        raise ValueError(
            f"a PIL image of mode {image.mode!r} holds 0 to 65535 (16-bit grey), this one {darkest} to {brightest}:"
            " convert it to 'L' or 'RGB' first"
        )
    narrow = wide.convert("I;16")
    transparency = image.info.get("transparency")
    return _png(narrow, **({"transparency": transparency} if isinstance(transparency, int) else {}))


def _png(image: Any, **settings: Any) -> pb.Image:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1, **settings)
    return pb.Image(encoded=file.getvalue())


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

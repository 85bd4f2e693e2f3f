"""Encoded *bytes* or a raw tensor from outside → decode under limits → **(H, W, 3) uint8 RGB pixels**.

What comes out is the photograph as a person sees it: EXIF orientation applied, alpha and transparent colours composited
over white, CMYK, palette, grey and 16-bit converted. What lies behind the picture is cut off, the file's parts are
counted before its header is read, and the size is read from the header before a pixel is decoded: all three bound the
time. Safe to call from many threads: Pillow's global settings are neither read for limits nor changed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from detector.errors import ImageDecodeError, ImageShapeError, ImageTooLargeError
from detector.images.parts import check_parts, check_scans, picture

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "decode", "from_raw"]

_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    # JpegImageFile itself, so that a phone's multi-picture file (MPO) is read as its first picture
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}

_STRIP_PIXELS = 2**20
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """What an image from outside may be.

    Attributes:
        max_bytes: Largest encoded (or raw) length in bytes.
        max_pixels: Largest height × width.
        formats: Allowed formats, a subset of JPEG, PNG, WEBP.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    formats: tuple[str, ...] = tuple(_DECODERS)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(_DECODERS))
        if unknown:
            raise ValueError(f"formats {unknown} cannot be decoded; choose from {list(_DECODERS)}")


DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one encoded image.

    Args:
        data: A whole JPEG, PNG or WebP file.
        limits: What is accepted.

    Returns:
        (H, W, 3) RGB, contiguous and writable.

    Raises:
        ImageDecodeError: Not an image, truncated, animated, in a format that is not allowed, or made to keep a decoder
            busy.
        ImageTooLargeError: More bytes or pixels than the limit.
    """
    _check_bytes(len(data), limits)
    name = _sniff(data)
    if name not in limits.formats:
        what = f"a {name} file" if name else "not an image that can be read" if data else "empty"
        raise ImageDecodeError(f"The data is {what}: send one of {', '.join(limits.formats)}.")
    own = picture(name, data)
    check_parts(name, own.data)
    try:
        image = _DECODERS[name](io.BytesIO(own.data))
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with foreign bytes may raise anything
        raise ImageDecodeError(f"The {name} header cannot be read ({error}): the file is damaged.") from error
    with image:
        _check_pixels(image.height, image.width, limits)
        check_scans(own.scans, image.height * image.width)
        if getattr(image, "is_animated", False):
            raise ImageDecodeError(f"The {name} is animated: send a single frame.")
        try:
            return _upright_rgb(image)
        except MemoryError:
            raise
        except Exception as error:
            raise ImageDecodeError(
                f"The {name} of {image.height}×{image.width} cannot be decoded ({error}): it is truncated or damaged."
            ) from error


def from_raw(
    data: bytes, height: int, width: int, channels: int, limits: ImageLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8]:
    """Read a raw uint8 tensor in HWC order.

    Args:
        data: height × width × channels bytes, row by row.
        height: In pixels.
        width: In pixels.
        channels: 3 (RGB) or 1 (grey, repeated).
        limits: What is accepted.

    Returns:
        (H, W, 3) RGB, contiguous and writable.

    Raises:
        ImageShapeError: A side or the number of channels cannot be, or the length does not fit them.
        ImageTooLargeError: More bytes or pixels than the limit.
    """
    _check_bytes(len(data), limits)
    if height < 1 or width < 1:
        raise ImageShapeError(f"A raw image of {height}×{width} has no pixels: each side must be at least 1.")
    _check_pixels(height, width, limits)
    if channels not in (1, 3):
        raise ImageShapeError(f"A raw image has {channels} channels: expected 3 (RGB) or 1 (grey).")
    expected = height * width * channels
    if len(data) != expected:
        raise ImageShapeError(
            f"A raw image of {height}×{width}×{channels} (uint8, HWC) takes {expected} bytes, {len(data)} came."
        )
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    return np.repeat(pixels, 3, axis=2) if channels == 1 else pixels.copy()


def _check_bytes(count: int, limits: ImageLimits) -> None:
    if count > limits.max_bytes:
        raise ImageTooLargeError(f"The image has {count} bytes, the limit is {limits.max_bytes}: send a smaller one.")


def _check_pixels(height: int, width: int, limits: ImageLimits) -> None:
    if height < 1 or width < 1:
        raise ImageDecodeError(f"An image of {height}×{width} has no pixels.")
    if height * width > limits.max_pixels:
        raise ImageTooLargeError(
            f"The image is {height}×{width} = {height * width} pixels, the limit is {limits.max_pixels}: scale it down."
        )


def _sniff(data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return ""


def _upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.has_transparency_data:
        image = _over_white(image)
    if image.mode != "RGB":  # `convert` would copy
        image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image, dtype=np.uint8)  # (H, W, 3)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey, over white where it is the transparent one: Pillow would clip at 255 instead of scaling."""
    values = np.asarray(image)
    grey = (values >> 8).clip(0, 255).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _over_white(image: Image.Image) -> Image.Image:
    """In strips: Pillow holds Python's lock while it composites, and the server's event loop waits for that."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of 16 bits, whose pixels Pillow reads as 8
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    flat = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        flat.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return flat


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return None

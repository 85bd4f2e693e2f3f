"""A PIL image goes in, the contract's `Image` comes out: the same picture that its file would be.

Transparency, palettes and 16 bits travel as PNG and are left to the server, which treats them as it does in files;
everything else travels as RGB or grey pixels.
"""

from __future__ import annotations

import io
from typing import Any

from heatward.v1 import detection_pb2 as pb

__all__ = ["from_pil", "raw"]

ORIENTATION = 0x0112
UPRIGHT = (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90",
)  # fmt: skip
"""What undoes the orientations 2 to 8."""
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
TRANSPARENCY: dict[str, type | tuple[type, ...]] = {"1": int, "L": int, "P": (int, bytes), "RGB": tuple}
"""What a PNG's tRNS (in `info`; a GIF's transparent colour, too) is in each mode that may have one."""


def from_pil(image: Any) -> pb.Image:
    """Packs a PIL image.

    Raises:
        OSError: Its file cannot be read.
        ValueError: It does not say what it shows: several frames, or a mode without a range of values.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's photograph has others behind it
        raise ValueError(f"a PIL image of {image.n_frames} frames is no single picture: send one of them, image.copy()")
    try:
        return _packed(_upright(image))
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow may raise anything over a damaged file
        raise ValueError(f"the PIL image of mode {image.mode!r} cannot be read: {error}") from error


def raw(data: bytes, height: int, width: int, channels: int) -> pb.Image:
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
    return raw(image.tobytes(), image.height, image.width, len(image.mode))


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

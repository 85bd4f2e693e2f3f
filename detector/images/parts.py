"""Encoded *bytes* → **the picture's own bytes** and its scans; parts that would keep a decoder busy are an error.

What lies behind the end of the picture (a phone's film, further pictures, padding) is cut off: what a decoder gets is
what was counted. The limit on pixels bounds what a decoder writes; this bounds how often it runs. Ten bytes of JPEG can
ask for another pass over every pixel, and Pillow walks headers in Python: within 20 MiB that is minutes to hours of
work. Real files have a few dozen parts (ISO 10918-1 annex B, PNG section 5, RFC 9649).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL.JpegImagePlugin import MARKER

from detector.errors import ImageDecodeError

__all__ = ["Picture", "check_parts", "check_scans", "picture"]

MAX_PARTS = 500
MAX_DATA_PARTS = 20_000  # PNG encoders write pixels in chunks of 8 KiB, some of 1 KiB
MAX_EXIF_BYTES = 2**16  # what fits into a JPEG segment
MAX_SCANS = 1000
MAX_JPEG_PARTS = 10_000  # a progressive JPEG has a few segments beside each scan
MAX_SCANNED_PIXELS = 5_000_000_000  # scans × pixels; a progressive JPEG of 50 megapixels has some 10 scans

_JUNK = 64
_SCAN = 0xFFDA
_PLAIN = frozenset(marker for marker, (_, _, read) in MARKER.items() if read is None) | {0xFFFF, 0xFF00}
"""Markers that Pillow takes for two bytes without a length."""
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""Not an escaped 0xFF, a fill byte or a restart; what is below 0xC0 has no length and stands for nothing."""
_PIECE = 2**18
_START, _END = 0xD8, 0xD9


@dataclass(frozen=True)
class Picture:
    """A file without what lies behind its picture."""

    data: bytes
    scans: int = 1
    """Passes over its pixels; more than 1 in a JPEG only."""


def picture(name: str, data: bytes) -> Picture:
    """Cut off what lies behind the end of the picture; a file without an end stays whole.

    Args:
        name: JPEG, PNG or WEBP.
        data: The file.

    Raises:
        ImageDecodeError: A JPEG of too many parts.
    """
    return _PICTURES[name](data)


def check_parts(name: str, data: bytes) -> None:
    """Refuse a file whose header would keep a decoder busy.

    Args:
        name: JPEG, PNG or WEBP.
        data: The file.

    Raises:
        ImageDecodeError: It has too many parts, or too much EXIF data.
    """
    parts = data_parts = exif_bytes = 0
    for kind, size in _WALKS[name](data):
        if kind == b"IDAT":
            data_parts += 1
        else:
            parts += 1
        if kind.upper() == b"EXIF":
            exif_bytes += size
        if parts > MAX_PARTS or data_parts > MAX_DATA_PARTS:
            raise ImageDecodeError(f"The {name} has more than {MAX_PARTS} parts beside its pixels: save it again.")
        if exif_bytes > MAX_EXIF_BYTES:
            raise ImageDecodeError(f"The {name} has more than {MAX_EXIF_BYTES} bytes of EXIF data: save it without.")


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG that goes over its pixels too often.

    Raises:
        ImageDecodeError: There are too many scans for this number of pixels.
    """
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    if scans > most:
        raise ImageDecodeError(f"The JPEG of {pixels} pixels has {scans} scans, the limit is {most}: save it again.")


def _jpeg_picture(data: bytes) -> Picture:
    """Walks the markers as libjpeg does (jdmarker.c), from segment to segment, up to the end of the image.

    libjpeg looks for the next marker in the same way within a scan, behind it and in damaged parts, so that it meets
    the scans that are counted here and no others; a thumbnail's lie within a segment.
    """
    at, parts, scans = 2, 0, 0
    while (at := _behind_marker(data, at)) >= 0:
        marker = data[at - 1]
        if marker == _END:
            return Picture(data[:at], scans)
        if marker != _START:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        scans += marker == _SCAN & 0xFF
        parts += 1
        if parts > MAX_JPEG_PARTS:
            raise ImageDecodeError(f"The JPEG has more than {MAX_JPEG_PARTS} parts, {scans} scans: save it again.")
    return Picture(data, scans)  # truncated: the decoder says so


def _behind_marker(data: bytes, at: int) -> int:
    """Where the next marker ends, -1 where there is none; in pieces, because a search holds Python's lock."""
    for start in range(at, len(data), _PIECE):
        if found := _MARKER.search(data, start, start + _PIECE + 1):
            return found.end()
    return -1


def _png_picture(data: bytes) -> Picture:
    at, kind, chunks = 8, b"", 0
    while (
        at + 8 <= len(data) and kind != b"IEND" and chunks <= MAX_PARTS + MAX_DATA_PARTS
    ):  # `check_parts` refuses more
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + size
        chunks += 1
    return Picture(data[:at] if kind == b"IEND" else data)


def _webp_picture(data: bytes) -> Picture:
    return Picture(data[: 8 + int.from_bytes(data[4:8], "little")])


def _jpeg(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Segments up to the first scan, as Pillow walks them."""
    at = 2
    while at + 1 < len(data):
        if data[at] != 0xFF:
            following = data.find(b"\xff", at, at + _JUNK)
            at = following if following >= 0 else at + _JUNK
            yield b"junk", _JUNK
            continue
        marker = int.from_bytes(data[at : at + 2], "big")
        if marker == _SCAN:
            return
        if marker in _PLAIN:
            at += 1 if marker == 0xFFFF else 2
            yield b"marker", 2
            continue
        size = max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        yield b"exif" if data[at + 4 : at + 8] == b"Exif" else b"segment", size
        at += 2 + size


def _png(data: bytes) -> Iterator[tuple[bytes, int]]:
    at, kind = 8, b""
    while at + 8 <= len(data) and kind != b"IEND":
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield kind, size
        at += 12 + size


def _webp(data: bytes) -> Iterator[tuple[bytes, int]]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield kind, size
        at += 8 + size + size % 2


_WALKS: dict[str, Callable[[bytes], Iterator[tuple[bytes, int]]]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
_PICTURES: dict[str, Callable[[bytes], Picture]] = {"JPEG": _jpeg_picture, "PNG": _png_picture, "WEBP": _webp_picture}

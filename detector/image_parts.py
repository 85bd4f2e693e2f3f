"""Encoded *bytes* → their parts are counted (JPEG segments and scans, PNG and RIFF chunks) → nothing, or an error.

The limit on pixels bounds what a decoder writes; this bounds how often it runs. Ten bytes of JPEG can ask for another
pass over every pixel, and Pillow walks headers in Python: within 20 MiB that is minutes to hours of work. Real files
have a few dozen parts (ISO 10918-1 annex B, PNG section 5, RFC 9649).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL.JpegImagePlugin import MARKER

from detector.errors import ImageDecodeError

__all__ = ["check_parts", "check_scans"]

MAX_PARTS = 500
MAX_DATA_PARTS = 20_000  # PNG encoders write pixels in chunks of 8 KiB, some of 1 KiB
MAX_EXIF_BYTES = 2**16  # what fits into a JPEG segment
MAX_SCANS = 1000
MAX_SCANNED_PIXELS = 5_000_000_000  # scans × pixels; a progressive JPEG of 50 megapixels has some 10 scans

_JUNK = 64
_SCAN = 0xFFDA
_PLAIN = frozenset(marker for marker, (_, _, read) in MARKER.items() if read is None) | {0xFFFF, 0xFF00}
"""Markers that Pillow takes for two bytes without a length."""


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


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a JPEG that goes over its pixels too often.

    Counts every start-of-scan marker, be it in a thumbnail or by chance in data behind the picture, so that the decoder
    never sees more than were counted.

    Raises:
        ImageDecodeError: There are too many scans for this number of pixels.
    """
    scans, most = data.count(b"\xff\xda"), min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels)
    if scans > most:
        raise ImageDecodeError(f"The JPEG of {pixels} pixels has {scans} scans, the limit is {most}: save it again.")


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

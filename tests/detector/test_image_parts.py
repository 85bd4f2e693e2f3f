"""Files that would keep a decoder busy for minutes or hours; and what lies behind a picture, which nobody looks at."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from detector.errors import ImageDecodeError
from detector.images import decode
from detector.images import decoding as images
from detector.images import parts as image_parts


def encoded(file_format: str, side: int = 16, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 20)).save(stream, file_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


JPEG, PROGRESSIVE = encoded("JPEG"), encoded("JPEG", progressive=True)
PNG, WEBP = encoded("PNG"), encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")  # with a list of chunks
REFINE = bytes.fromhex("ffda0008010100013f10")  # one more pass over the luminance, without data


def into_jpeg(part: bytes) -> bytes:
    return JPEG[:2] + part + JPEG[2:]


def into_png(part: bytes) -> bytes:
    return PNG[:33] + part + PNG[33:]


def into_webp(part: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(WEBP) - 8 + len(part)) + WEBP[8:] + part


def exif_segment(size: int) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", size + 8) + b"Exif\0\0" + bytes(size)


BUSY = {
    "JPEG comments": into_jpeg(b"\xff\xfe\x00\x02" * 10_000),
    "JPEG segments": into_jpeg(b"\xff\xef\x00\x02" * 10_000),
    "JPEG fill bytes": into_jpeg(b"\xff" * 10_000),
    "JPEG restart markers": into_jpeg(b"\xff\xd0" * 10_000),
    "JPEG escaped bytes": into_jpeg(b"\xff\x00" * 10_000),
    "JPEG junk": JPEG[:20] + b"\x01" * 100_000 + JPEG[20:],
    "JPEG without a scan": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 10_000,
    "JPEG EXIF in pieces": into_jpeg(exif_segment(1) * 10_000),
    "JPEG EXIF of many segments": into_jpeg(exif_segment(60_000) * 2),
    "JPEG scans": PROGRESSIVE[:-2] + REFINE * 10_000 + PROGRESSIVE[-2:],
    "JPEG scans behind a comment that holds an end": PROGRESSIVE[:-2]
    + b"\xff\xfe\x00\x06ab\xff\xd9"
    + REFINE * 2_000
    + PROGRESSIVE[-2:],
    "JPEG scans behind fill bytes and restarts": PROGRESSIVE[:-2]
    + (b"\xff\xff\xff\xd3\x00\xff\xff" + REFINE) * 2_000
    + PROGRESSIVE[-2:],
    "JPEG scans without an end": PROGRESSIVE[:-2] + REFINE * 2_000,
    "JPEG segments behind the pixels": JPEG[:-2] + b"\xff\xfe\x00\x02" * 20_000 + JPEG[-2:],
    "PNG chunks": into_png(chunk(b"abCd") * 10_000),
    "PNG text": into_png(chunk(b"tEXt", b"a\0b") * 10_000),
    "PNG colour profiles": into_png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20))) * 1000),
    "PNG empty data": PNG[:33] + chunk(b"IDAT") * 100_000 + PNG[33:],
    "PNG chunks behind the pixels": PNG[:-12] + chunk(b"abCd") * 10_000 + PNG[-12:],
    "PNG EXIF": into_png(chunk(b"eXIf", bytes(100_000))),
    "WebP chunks": into_webp(b"abcd\0\0\0\0" * 10_000),
    "WebP EXIF": into_webp(b"EXIF" + struct.pack("<I", 100_000) + bytes(100_000)),
}


@pytest.mark.parametrize("name", BUSY)
def test_busy_files_are_refused(name: str) -> None:
    with pytest.raises(ImageDecodeError, match=r"parts|EXIF data|scans"):
        decode(BUSY[name])


def test_scans_are_counted_against_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = PROGRESSIVE.count(REFINE[:2])
    monkeypatch.setattr(image_parts, "MAX_SCANNED_PIXELS", scans * 256)
    assert decode(PROGRESSIVE).shape == (16, 16, 3)
    with pytest.raises(ImageDecodeError, match=f"{scans + 1} scans, the limit is {scans}"):
        decode(PROGRESSIVE[:-2] + REFINE + PROGRESSIVE[-2:])


FINE = {
    "a phone's EXIF, profile and thumbnail": encoded(
        "JPEG", exif=b"Exif\0\0" + bytes(60_000), icc_profile=bytes(3_000_000)
    ),
    "a progressive picture with a video behind it": encoded("JPEG", 64, progressive=True) + bytes(range(256)) * 10_000,
    "a little padding between segments": JPEG[:20] + bytes(1000) + JPEG[20:],
    "PNG in chunks of 1 KiB": PNG[:33] + chunk(b"IDAT") * 5_000 + PNG[33:],
    "PNG with zeros behind it": PNG + bytes(100_000),
    "WebP with zeros behind it": WEBP + bytes(100_000),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", FINE)
def test_files_of_many_parts_that_exist_are_read(name: str) -> None:
    assert abs(decode(FINE[name])[0, 0].astype(int) - (200, 10, 20)).max() < 10


STARTS = {"JPEG": b"\xff\xd8", "PNG": b"\x89PNG", "WEBP": b"RIFF"}
FILM = random.Random(1).randbytes(2**18) + (b"\xff\xd8" + REFINE) * 5_000
BEHIND = {
    "a film behind a JPEG": (JPEG, FILM),
    "a film behind a progressive JPEG": (PROGRESSIVE, FILM),
    "a second picture, as in MPO": (JPEG, PROGRESSIVE),
    "a phone's trailer": (JPEG, b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1458170015363SEFHe\0\0\0" + REFINE * 2_000),
    "a film behind a PNG": (PNG, FILM),
    "chunks behind a PNG's end": (PNG, chunk(b"abCd") * 10_000),
    "a film behind a WebP": (WEBP, FILM),
    "chunks behind a WebP's end": (WEBP, b"EXIF" + struct.pack("<I", 100_000) + bytes(100_000)),
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_lies_behind_the_picture_is_not_looked_at(name: str) -> None:
    file, behind = BEHIND[name]
    np.testing.assert_array_equal(decode(file + behind), decode(file))


@pytest.mark.parametrize("name", BEHIND)
def test_the_decoder_gets_what_was_counted_and_no_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, behind = BEHIND[name]
    kind = next(known for known in ("JPEG", "PNG", "WEBP") if file.startswith(STARTS[known]))
    given: list[bytes] = []
    opened = images._DECODERS[kind]

    def seen(stream: io.BytesIO) -> Any:
        given.append(stream.getvalue())
        return opened(stream)

    monkeypatch.setitem(images._DECODERS, kind, seen)
    decode(file + behind)
    assert given == [file]


def test_scans_of_thumbnails_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_parts, "MAX_SCANNED_PIXELS", 256)  # one scan
    thumbnail = encoded("JPEG", 8, exif=b"Exif\0\0" + JPEG)
    assert decode(into_jpeg(b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail)).shape == (16, 16, 3)


def test_a_truncated_jpeg_stays_whole() -> None:
    cut = PROGRESSIVE[:-2]
    assert image_parts.picture("JPEG", cut) == image_parts.Picture(cut, PROGRESSIVE.count(REFINE[:2]))


def test_a_damaged_jpeg_is_the_same_picture_without_what_is_cut_off() -> None:
    """What is taken for the end of the picture is libjpeg's, in whatever way the file is broken."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    files = []
    options: list[dict[str, Any]] = [{}, {"progressive": True}, {"restart_marker_blocks": 1}]
    for option in options:
        noise.save(stream := io.BytesIO(), "JPEG", **option)
        files.append(stream.getvalue())
    draw, cuts = random.Random(0), 0
    parts = [b"\xff\xd9", b"\xff\xff", b"\xff\x01", b"\xff\xfe\0\4\xff\xd9", b"\xff\xfe\0\0\xff\xd9", b"\xff\0\xff\xd5"]
    for _ in range(300):
        damaged = bytearray(draw.choice(files))
        at = draw.randrange(2, len(damaged))
        damaged[at : at + draw.randrange(2)] = draw.choice([*parts, bytes([draw.randrange(256)])])
        data = bytes(damaged) + draw.choice([b"", FILM[:1000], JPEG])
        own = image_parts.picture("JPEG", data).data
        cuts += len(own) < len(data)
        assert pixels_or_none(data) == pixels_or_none(own)
    assert cuts > 100


def pixels_or_none(data: bytes) -> bytes | None:
    try:
        return JpegImageFile(io.BytesIO(data)).tobytes()
    except Exception:
        return None

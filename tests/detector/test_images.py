"""What people send: every kind of photograph comes out upright and RGB, everything else is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.errors import ImageDecodeError, ImageError, ImageShapeError, ImageTooLargeError
from detector.images import ImageLimits, decode, from_raw

RED, GREEN = (200, 10, 20), (5, 220, 30)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def two_colours() -> Image.Image:
    """4×6 (height × width): left half red, right half green."""
    image = Image.new("RGB", (6, 4), RED)
    image.paste(GREEN, (3, 0, 6, 4))
    return image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing: a decompression bomb."""

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_keep_every_pixel(file_format: str, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    decoded = decode(encoded(Image.fromarray(pixels), file_format, **options))
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 200 << 8, np.uint16))
    else:
        image = Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    decoded = decode(data)
    assert decoded.shape == (4, 6, 3)
    if mode == "1":  # dithered
        assert set(decoded.flatten().tolist()) <= {0, 255}
    else:
        assert abs(decoded.astype(int) - 200).max() <= 4  # the web palette's nearest grey is 204


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    decoded = decode(encoded(Image.fromarray(ramp)))
    np.testing.assert_array_equal(decoded[0, :, 0], ramp[0] >> 8)


def test_alpha_is_composited_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 0, 255))
    assert decode(encoded(image)).tolist() == [[[255, 255, 255], [100, 0, 0]]]


def test_alpha_is_composited_alike_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))
    whole = decode(data)
    monkeypatch.setattr("detector.images.decoding._STRIP_PIXELS", 14)
    np.testing.assert_array_equal(decode(data), whole)


def test_a_palette_with_a_transparent_colour_is_composited_too() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, transparency=0)).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def png(depth: int, colour: int, width: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of one row that names transparent colours."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"tRNS", transparent) + pixels + chunk(b"IEND", b"")


W = [255, 255, 255]
TRANSPARENT = {
    "RGB": (png(8, 2, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 4, 5, 6)), [[1, 2, 3], W]),
    "RGB of 16 bits": (
        png(16, 2, 2, struct.pack(">6H", 0x1234, 0x80FF, 1, 0x0100, 7, 9), struct.pack(">3H", 0x1234, 0x80FF, 1)),
        [W, [1, 0, 0]],
    ),
    "L": (png(8, 0, 2, bytes([7, 180]), struct.pack(">H", 180)), [[7, 7, 7], W]),
    "1, black": (png(1, 0, 2, bytes([0b01000000]), struct.pack(">H", 0)), [W, W]),
    "1, white": (png(1, 0, 2, bytes([0b01000000]), struct.pack(">H", 1)), [[0, 0, 0], W]),
    "I;16": (png(16, 0, 2, struct.pack(">HH", 0x8000, 0x8001), struct.pack(">H", 0x8000)), [W, [0x80, 0x80, 0x80]]),
    "P, one entry": (png(8, 3, 2, bytes([0, 1]), bytes([255, 0])), [[0, 1, 2], W]),
    "P, alpha by entry": (png(8, 3, 3, bytes([0, 1, 2]), bytes([0, 51])), [W, [205, 205, 205], [6, 7, 8]]),
}


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_transparent_colours_are_white_in_every_mode(mode: str) -> None:
    data, expected = TRANSPARENT[mode]
    assert decode(data).tolist() == [expected]


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_a_file_that_pillow_opened_and_wrote_again_is_the_same_picture(mode: str) -> None:
    data, expected = TRANSPARENT[mode]
    assert decode(encoded(Image.open(io.BytesIO(data)))).tolist() == [expected]


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_a_jpeg_is_what_pillow_converts_it_to(mode: str) -> None:
    data = encoded(two_colours().convert(mode), "JPEG")
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(two_colours(), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_lose_the_picture() -> None:
    data = encoded(two_colours(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert decode(data).shape == (4, 6, 3)


def test_one_pixel_is_an_image() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), RED))).tolist() == [[list(RED)]]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_animated_images_are_refused(file_format: str) -> None:
    frames = [two_colours(), Image.new("RGB", (6, 4), RED)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageDecodeError, match="animated"):
        decode(data)


def test_a_phones_multi_picture_jpeg_is_its_first_picture() -> None:
    pictures = [Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), GREEN)]
    data = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert abs(decode(data).astype(int) - RED).max() < 10


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_an_error_not_a_grey_patch(file_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), file_format)
    with pytest.raises(ImageDecodeError):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello, I am no image", b"GIF89a" + bytes(40), b"BM" + bytes(60)])
def test_what_is_no_allowed_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageDecodeError, match="JPEG, PNG, WEBP"):
        decode(data)


def test_formats_can_be_narrowed() -> None:
    limits = ImageLimits(formats=("JPEG",))
    with pytest.raises(ImageDecodeError, match="PNG"):
        decode(encoded(two_colours()), limits)
    with pytest.raises(ValueError, match="TIFF"):
        ImageLimits(formats=("TIFF",))


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_a_bomb_is_refused_from_its_header(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="pixels"):
        decode(png_header(side, side))


def test_limits_are_inclusive() -> None:
    data = encoded(two_colours())
    assert decode(data, ImageLimits(max_bytes=len(data), max_pixels=24)).shape == (4, 6, 3)
    with pytest.raises(ImageTooLargeError, match="23"):
        decode(data, ImageLimits(max_pixels=23))
    with pytest.raises(ImageTooLargeError, match="bytes"):
        decode(data, ImageLimits(max_bytes=len(data) - 1))


def test_our_limits_rule_whatever_pillows_global_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    assert decode(encoded(two_colours())).shape == (4, 6, 3)


def test_an_image_of_no_pixels_is_refused() -> None:
    with pytest.raises(ImageError):
        decode(png_header(0, 0))


SAMPLES = [encoded(two_colours(), name) for name in ("JPEG", "PNG", "WEBP")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_bytes_give_pixels_or_our_error(sample: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(sample)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(sample) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(damaged), ImageLimits(max_pixels=100_000))
    except ImageError:
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


def test_raw_pixels_come_through() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(from_raw(pixels.tobytes(), 2, 4, 3), pixels)
    grey = from_raw(bytes([7, 9]), 1, 2, 1)
    assert grey.tolist() == [[[7] * 3, [9] * 3]]


@pytest.mark.parametrize(
    ("length", "shape", "message"),
    [
        (23, (2, 4, 3), "24 bytes"),
        (0, (0, 0, 3), "no pixels"),
        (32, (2, 4, 4), "4 channels"),
        (0, (-2, -4, 3), "no pix"),
    ],
)
def test_raw_shapes_that_do_not_fit(length: int, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ImageShapeError, match=message):
        from_raw(bytes(length), *shape)


def test_raw_limits_hold_before_the_length_is_looked_at() -> None:
    with pytest.raises(ImageTooLargeError):
        from_raw(b"", 20_000, 20_000, 3)

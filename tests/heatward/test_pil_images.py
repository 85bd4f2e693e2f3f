"""A PIL image is judged as the file that it is, or would be: for every mode that Pillow has."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from heatward.images import image_message
from PIL import Image
from PIL.Image import MODES

from detector.images import decode, from_raw

REFUSED = {"F"}
ORIENTATION = 0x0112


def seen(image: Any) -> np.ndarray:
    """What the server makes of what the client sends."""
    message = image_message(image)
    if message.HasField("raw"):
        return from_raw(message.raw.data, message.raw.height, message.raw.width, message.raw.channels)
    return decode(message.encoded)


def file(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    saved = io.BytesIO()
    image.save(saved, kind, **settings)
    return saved.getvalue()


def same(data: bytes) -> np.ndarray:
    """Asserts that a file and its PIL image are the same picture, and returns it."""
    by_file = seen(data)
    assert np.array_equal(by_file, seen(Image.open(io.BytesIO(data))))
    return by_file


@pytest.fixture
def photograph() -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    pixels[:2, :3] = (10, 20, 30)
    return Image.fromarray(pixels)


def in_mode(mode: str, photograph: Image.Image) -> Image.Image:
    alpha = photograph.getchannel("R")
    if mode.startswith("I"):
        grey = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.int32) * 250)
        return grey if mode == "I" else Image.frombytes(mode, grey.size, _sixteen(grey, mode))
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        straight = photograph.convert("RGBA" if mode.startswith("RGB") else "LA")
        straight.putalpha(alpha)
        return straight.convert(mode) if mode != "PA" else _palette_with_alpha(photograph, alpha)
    return photograph.convert(mode)


def _sixteen(grey: Image.Image, mode: str) -> bytes:
    order = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}[mode]
    return np.asarray(grey).astype(order).tobytes()


def _palette_with_alpha(photograph: Image.Image, alpha: Image.Image) -> Image.Image:
    image = photograph.convert("P").convert("PA")
    image.putalpha(alpha)
    return image


def expected(image: Image.Image) -> np.ndarray:
    """By the field's rules, worked out here in numbers: alpha over white, the upper 8 of 16 bits."""
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image.convert("I"))[..., None] >> 8).astype(np.uint8), 3, 2)
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = np.asarray(straight.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in REFUSED])
def test_every_mode_shows_the_picture_that_it_is(mode: str, photograph: Image.Image) -> None:
    image = in_mode(mode, photograph)
    assert image.mode == mode
    assert np.abs(seen(image).astype(float) - expected(image)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"])
def test_a_png_is_the_same_picture_either_way(mode: str, photograph: Image.Image) -> None:
    same(file(in_mode(mode, photograph)))


@pytest.mark.parametrize(
    ("mode", "transparency"),
    [("1", 0), ("L", "first"), ("RGB", (10, 20, 30)), ("P", "first"), ("P", bytes(range(0, 250, 2))), ("I;16", 4000)],
)
def test_a_png_with_a_transparent_colour_is_the_same_picture_either_way(
    mode: str, transparency: Any, photograph: Image.Image
) -> None:
    image = in_mode(mode, photograph)
    if transparency == "first":
        transparency = image.getpixel((0, 0))
    data = file(image, transparency=transparency)
    picture = same(data)
    if not mode.startswith("I"):
        assert not np.array_equal(picture, seen(image))  # it makes a difference
    assert np.array_equal(picture, seen(Image.open(io.BytesIO(data)).copy()))


def test_a_transparent_colour_of_another_kind_is_understood(photograph: Image.Image) -> None:
    image = photograph.convert("RGB")
    image.info["transparency"] = b"\x0a\x14\x1e"
    try:
        expected = np.asarray(image.convert("RGBA"))
    except Exception:
        with pytest.raises(ValueError, match="mode 'RGB' cannot be read"):
            image_message(image)
    else:
        assert np.array_equal(seen(image), decode(file(Image.fromarray(expected))))


def test_a_transparent_colour_of_16_bits_is_left_to_the_server(photograph: Image.Image) -> None:
    data = file(photograph, transparency=(10 * 257, 20 * 257, 30 * 257))
    same(data)


def test_a_palette_that_holds_alpha_is_laid_over_white(photograph: Image.Image) -> None:
    image = in_mode("RGBA", photograph).quantize(16)
    assert image.palette is not None and image.palette.mode == "RGBA"
    assert np.array_equal(seen(image), same(file(image)))


def test_a_gif_keeps_its_transparent_colour(photograph: Image.Image) -> None:
    gif = Image.open(io.BytesIO(file(photograph.convert("P"), "GIF", transparency=3)))
    assert np.array_equal(seen(gif), decode(file(gif.convert("RGBA"))))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_the_same_picture_either_way(mode: str, photograph: Image.Image) -> None:
    same(file(photograph.convert(mode), "JPEG", quality=95))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_is_the_same_picture_either_way(mode: str, photograph: Image.Image) -> None:
    same(file(in_mode(mode, photograph), "WEBP", lossless=True))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_file_is_turned_the_same_way(mode: str, orientation: int, photograph: Image.Image) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = same(file(in_mode(mode, photograph), exif=exif))
    assert picture.shape[:2] == ((9, 7) if orientation > 4 else (7, 9))


def test_broken_exif_harms_neither_way(photograph: Image.Image) -> None:
    same(file(photograph, exif=b"Exif\0\0broken"))


def test_several_frames_are_refused_either_way(photograph: Image.Image) -> None:
    data = file(photograph, "WEBP", save_all=True, append_images=[photograph.rotate(90)], duration=100)
    animation = Image.open(io.BytesIO(data))
    with pytest.raises(ValueError, match=r"2 frames.*image\.copy\(\)"):
        image_message(animation)
    assert seen(animation.copy()).shape == (7, 9, 3)


def test_a_mode_without_a_range_is_refused() -> None:
    with pytest.raises(ValueError, match="'F' has no fixed range"):
        image_message(Image.new("F", (6, 4)))
    for low, high in ((-1, 5), (0, 65536)):
        with pytest.raises(ValueError, match=f"0 to 65535.*{low} to {high}"):
            image_message(Image.fromarray(np.array([[low, high]], np.int32)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_transparent_colour_of_none_is_none(mode: str, photograph: Image.Image) -> None:
    image = in_mode(mode, photograph)
    expected = seen(image)
    image.info["transparency"] = None
    assert np.array_equal(seen(image), expected)

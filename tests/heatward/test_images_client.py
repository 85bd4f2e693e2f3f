"""Every kind of image that the client takes, and the kinds it refuses with advice."""

from __future__ import annotations

import io
import tempfile
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heatward.images import image_message
from PIL import Image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def test_bytes_and_files_travel_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"file")
    for image in (b"file", bytearray(b"file"), memoryview(b"file"), path, str(path)):
        assert image_message(image).encoded == b"file"


def test_arrays_travel_raw_whatever_their_strides(pixels: np.ndarray) -> None:
    for array in (pixels, np.asfortranarray(pixels), pixels[:, ::-1]):
        raw = image_message(array).raw
        assert (raw.height, raw.width, raw.channels) == (4, 6, 3)
        assert raw.data == np.ascontiguousarray(array).tobytes()


def test_grey_arrays_have_one_channel(pixels: np.ndarray) -> None:
    for array in (pixels[..., 0], pixels[..., :1]):
        raw = image_message(array).raw
        assert (raw.height, raw.width, raw.channels, raw.data) == (4, 6, 1, array.tobytes())


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((4, 6, 3), np.float32), r"\* 255"),
        (np.zeros((3, 4, 6), np.uint8), "transpose"),
        (np.zeros((4, 6, 4), np.uint8), "alpha"),
        (np.zeros((2, 4, 6, 3), np.uint8), "shape"),
    ],
)
def test_arrays_of_another_make_are_refused_with_the_mend(array: np.ndarray, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        image_message(array)


def test_pil_images_travel_raw(pixels: np.ndarray) -> None:
    raw = image_message(Image.fromarray(pixels)).raw
    assert (raw.height, raw.width, raw.channels, raw.data) == (4, 6, 3, pixels.tobytes())
    assert image_message(Image.fromarray(pixels[..., 0])).raw.channels == 1
    assert image_message(Image.fromarray(pixels).convert("CMYK")).raw.channels == 3


def test_a_pil_image_read_from_a_file_keeps_its_orientation(pixels: np.ndarray) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(file, format="PNG", exif=exif)
    raw = image_message(Image.open(file)).raw
    assert (raw.height, raw.width) == (6, 4)
    assert raw.data == np.rot90(pixels, -1).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "I;16"])
def test_pil_images_with_more_to_say_travel_as_png(mode: str, pixels: np.ndarray) -> None:
    image = Image.new(mode, (6, 4)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    sent = Image.open(io.BytesIO(image_message(image).encoded))
    assert sent.mode == mode and sent.tobytes() == image.tobytes()


def test_open_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"file")
    with path.open("rb") as opened:
        assert image_message(opened).encoded == b"file"
    with tempfile.NamedTemporaryFile() as wrapped:
        wrapped.write(b"file")
        wrapped.seek(0)
        assert image_message(wrapped).encoded == b"file"
    assert image_message(io.BytesIO(b"file")).encoded == b"file"


class Upload:
    async def read(self) -> bytes:
        return b"file"


def test_open_files_that_give_no_bytes_are_refused_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    with path.open() as text, pytest.raises(TypeError, match="'rb'"):
        image_message(text)  # type: ignore[arg-type]
    with tempfile.NamedTemporaryFile("r+") as wrapped:
        Path(wrapped.name).write_bytes(b"\xff\xd8\xff")
        with pytest.raises(TypeError, match="'rb'"):
            image_message(wrapped)
    written = io.BytesIO()
    written.write(b"file")
    with pytest.raises(ValueError, match=r"seek\(0\)"):
        image_message(written)
    with pytest.raises(TypeError, match=r"await file\.read\(\)"):
        image_message(Upload())  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [False, True, np.ma.nomask])
def test_masked_arrays_are_refused(mask: Any, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"filled"):
        image_message(np.ma.array(pixels, mask=mask))


def test_subclasses_of_arrays_are_arrays(pixels: np.ndarray) -> None:
    assert image_message(pixels[::-1, ::2].view(np.recarray)).raw.data == pixels[::-1, ::2].tobytes()


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((4, 6, 3), bool), r"holds bool: .*\* 255"),
        (np.zeros((4, 6, 3), np.int64), "holds int64"),
        (np.zeros((4, 6, 3), np.int8), "holds int8"),
        (np.zeros((4, 6), ">u2"), "holds >u2: .*>> 8"),
        (np.zeros((4, 6, 3), object), "holds object"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array: np.ndarray, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        image_message(array)


def test_a_memoryview_of_an_array_is_no_file(pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match="pass the array itself"):
        image_message(pixels.data)


class OnAnAccelerator:
    __cuda_array_interface__: typing.ClassVar[dict[str, object]] = {}


def test_arrays_elsewhere_are_refused_with_the_way_here() -> None:
    with pytest.raises(TypeError, match=r"array\.get\(\)"):
        image_message(OnAnAccelerator())  # type: ignore[arg-type]


def test_other_objects_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"builtins\.int"):
        image_message(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.Tensor: try tensor\.permute"):
        image_message(torch.zeros(3, 4, 6))  # type: ignore[arg-type]

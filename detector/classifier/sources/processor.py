"""A Hugging Face folder's image processor → **our `Preprocessing`**, held against the processor itself.

Processors differ in more than their settings say (ConvNeXT crops below 384 pixels, LeViT resizes to 256 for 224,
EfficientNet normalises twice). So the processor is asked: black, white and red pictures tell what it makes of pixels, a
pattern tells what it sees of a photograph. Readings of its settings are tried, and one that shows the same is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detector.classifier.preprocessing import Normalized, fit_to, to_images
from detector.classifier.sources.known import Known
from detector.errors import ClassifierSpecError
from detector.settings import Preprocessing
from detector.text import briefly, first_line

__all__ = ["images_of"]

FILES = ("preprocessor_config.json", "processor_config.json")
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
ALIKE = 0.025
"""Mean difference of pixels in [0, 1]: one pixel to the side is less, a crop of another size is more."""
PATTERN = (301, 402)  # (height, width) of the pattern


def images_of(folder: Path, found: Known, source: str) -> Known:
    """With size and preprocessing, or with why they are unknown.

    Raises:
        ClassifierSpecError: The folder's processor cannot be opened.
    """
    if not any((folder / name).is_file() for name in FILES):
        return replace(found, why_unknown=f"{folder} has no {FILES[0]}, which would tell how its images are prepared")
    processor = _open(folder, source)
    grey = found.arguments.get("num_channels") == 1
    try:
        pattern, answer = _pattern(*PATTERN), _ask(processor, _pattern(*PATTERN), grey)
        upright = _ask(processor, _pattern(*PATTERN[::-1]), grey)
        mean, std, order = _normalisation(processor, grey)
    except Exception as error:  # a library's code
        raise ClassifierSpecError(
            f"{source}: its image processor fails on a photograph ({type(error).__name__}: {briefly(error)}): "
            "give input_size and [classifier.preprocessing]."
        ) from error
    if answer.shape != upright.shape:
        return replace(found, why_unknown="its image processor makes images of many sizes, and a bundle has one")
    size = (answer.shape[1], answer.shape[2])
    errors = {}
    for reading in _readings(processor, size):
        preprocessing = Preprocessing(**reading, mean=mean, std=std, channel_order=order)
        if preprocessing.misfit(size) is None:
            errors[preprocessing] = _difference(answer, pattern, size, preprocessing)
    best = min(errors, key=lambda each: errors[each], default=None)
    if best is None or errors[best] > ALIKE:
        return replace(
            found, why_unknown=f"its image processor, {type(processor).__name__}, does what heatward cannot repeat"
        )
    return replace(found, input_size=size, preprocessing=best, told=f"as its {type(processor).__name__} does")


def _open(folder: Path, source: str) -> Any:
    import transformers

    opener: Any = transformers.AutoImageProcessor
    try:
        return opener.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library's code
        raise ClassifierSpecError(
            f"{source}: the image processor in {folder} cannot be opened ({type(error).__name__}: "
            f"{first_line(error)}): give input_size and [classifier.preprocessing]."
        ) from error


def _ask(processor: Any, pixels: NDArray[np.uint8], grey: bool) -> Tensor:
    """(C, h, w) as the net gets it."""
    image = Image.fromarray(pixels)
    values = processor(images=image.convert("L") if grey else image, return_tensors="pt")["pixel_values"]
    found: Tensor = torch.as_tensor(values)[0].float()
    return found


def _normalisation(processor: Any, grey: bool) -> tuple[tuple[float, ...], tuple[float, ...], Any]:
    """Mean and standard deviation, in units of pixels in [0, 1], and the order of the channels."""

    def middle(*colour: int) -> Tensor:
        pixels = np.broadcast_to(np.array(colour, np.uint8), (*PATTERN, 3)).copy()
        answer = _ask(processor, pixels, grey)
        return answer[:, answer.shape[1] // 2, answer.shape[2] // 2].double()

    black, white, red = middle(0, 0, 0), middle(255, 255, 255), middle(255, 0, 0)
    spread = white - black
    mean = _as_written((-black / spread).tolist(), getattr(processor, "image_mean", None))
    std = _as_written((1 / spread).tolist(), getattr(processor, "image_std", None))
    if grey:
        return mean * 3, std * 3, "grey"
    return mean, std, "BGR" if ((red - black) / spread).argmax() == 2 else "RGB"


def _as_written(measured: list[float], written: Any) -> tuple[float, ...]:
    """The processor's own digits where they are what was measured."""
    digits = written if isinstance(written, list | tuple) and len(written) == len(measured) else [None] * len(measured)
    return tuple(
        float(own) if own is not None and abs(own - value) < 1e-5 else round(value, 6) + 0.0
        for own, value in zip(digits, measured, strict=True)
    )


def _readings(processor: Any, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """What resize and crop its settings may mean for images that end in `size`."""
    resampling = RESAMPLING.get(int(getattr(processor, "resample", None) or 0), "bilinear")
    wanted = dict(getattr(processor, "size", None) or {})
    side = wanted.get("shortest_edge")
    share = getattr(processor, "crop_pct", None)
    resizes: list[Any] = [None]
    if wanted.get("height") and wanted.get("width"):
        resizes.append((wanted["height"], wanted["width"]))
        side = wanted["height"]
    if side:
        resizes += [side, int(256 / 224 * side)]
        resizes += [int(side / share)] if share else []
    for resize in resizes:
        yield {"resize": resize, "crop": None if resize is None else size, "interpolation": resampling}


def _pattern(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3): four waves across and along, other in each colour, so that every place looks different."""
    down, right = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(25 * right + 6 * down), np.sin(25 * down - 5 * right), np.sin(18 * (right + down))]
    return (127.5 + 100 * np.stack(waves, 2)).astype(np.uint8)


def _difference(answer: Tensor, pattern: NDArray[np.uint8], size: tuple[int, int], ours: Preprocessing) -> float:
    """Mean, of pixels in [0, 1], between what the processor answers and what we would."""
    within = Normalized(torch.nn.Identity(), ours)
    seen = within.normalised(to_images(torch.tensor(fit_to(pattern, size, ours))[None]))
    return ((answer - seen) * within.std).abs().mean().item()

"""Deliveries: images (8 bits) in, the same images as they arrive (8 bits) out: re-encoded, resized, cropped, noisy.

An attacker attacks a file, and files change on their way. Clean images go the same ways, so that the traces of a codec
are no evidence of an attack. What is drawn is drawn for each image from its own place in the shard and the seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.errors import DataError
from training.attacks.drawing import draw_number
from training.deliveries import Step, StepKind
from training.shards import derived_seed

__all__ = ["deliver"]

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # Pillow's numbers


def deliver(pixels: Tensor, steps: Sequence[Step], seed: int) -> Tensor:
    """Send images on their way.

    Args:
        pixels: (n, 3, H, W) uint8.
        steps: What happens, in this order.
        seed: Decides what is drawn; an image's draws depend on its row, and not on the other images.

    Returns:
        (n, 3, H, W) uint8.

    Raises:
        DataError: An image cannot be encoded or read again.
    """
    arrived = [
        _one(image, steps, torch.Generator().manual_seed(derived_seed(seed, row))) for row, image in enumerate(pixels)
    ]
    return torch.stack(arrived) if arrived else pixels.clone()


def _one(image: Tensor, steps: Sequence[Step], random: torch.Generator) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for step in steps:
        try:
            picture = _APPLY[step.kind](picture, draw_number(step.amount, random), step, random)
        except (OSError, ValueError) as error:
            raise DataError(
                f"delivery step {step.kind}: an image of {picture.width}×{picture.height} cannot be sent so ({error}): "
                "take this step out, or another codec"
            ) from error
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def _jpeg(picture: Image.Image, quality: float, step: Step, random: torch.Generator) -> Image.Image:
    chosen = step.subsampling[_below(len(step.subsampling), random)]
    return _coded(picture, "JPEG", quality=round(quality), subsampling=SUBSAMPLINGS[chosen])


def _webp(picture: Image.Image, quality: float, step: Step, random: torch.Generator) -> Image.Image:
    return _coded(picture, "WEBP", quality=round(quality))


def _coded(picture: Image.Image, format: str, **settings: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, format, **settings)
    with Image.open(file) as read:
        return read.convert("RGB")


def _resize(picture: Image.Image, scale: float, step: Step, random: torch.Generator) -> Image.Image:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC).resize(picture.size, Image.Resampling.BICUBIC)


def _crop(picture: Image.Image, share: float, step: Step, random: torch.Generator) -> Image.Image:
    width, height = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    left = _below(picture.width - width + 1, random)
    top = _below(picture.height - height + 1, random)
    part = (left, top, left + width, top + height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=part)


def _noise(picture: Image.Image, sigma: float, step: Step, random: torch.Generator) -> Image.Image:
    values = torch.from_numpy(np.array(picture)).double()
    noisy = values + sigma * 255 * torch.randn(values.shape, generator=random, dtype=torch.float64)
    return Image.fromarray(noisy.round().clamp(0, 255).to(torch.uint8).numpy())


def _below(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=random))


_APPLY: dict[StepKind, Callable[[Image.Image, float, Step, torch.Generator], Image.Image]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "crop": _crop,
    "noise": _noise,
}

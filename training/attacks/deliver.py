"""Deliveries: images (8 bits) in, the same images as they arrive (8 bits) out: re-encoded, resized, cropped, noisy.

An attacker attacks a file, and files change on their way. Clean images go the same ways, so that the traces of a codec
are no evidence of an attack. What is drawn is drawn for each image from its own place in the shard and the seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.errors import DataError
from training.attacks.drawing import draw_number
from training.deliveries import Step, StepKind
from training.shards import derived_seed

__all__ = ["Change", "deliver", "deliver_and_tell", "deliver_each"]

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # Pillow's numbers
Box = tuple[int, int, int, int]
NOWHERE = (0, 0, 0, 0)
Sent = tuple[Image.Image, Box]


@dataclass(frozen=True)
class Change:
    """One step as it was drawn for one image."""

    kind: StepKind
    amount: float
    box: Box = NOWHERE
    """Left, top, right, bottom: of a crop, the part that is left; of a resize, the whole at its other size."""


def deliver(pixels: Tensor, steps: Sequence[Step], seed: int) -> Tensor:
    """Send images on their way.

    Args:
        pixels: (n, 3, H, W) uint8; `deliver_each` takes images of different sizes.
        steps: What happens, in this order.
        seed: Decides what is drawn; an image's draws depend on its row, and not on the other images.

    Returns:
        (n, 3, H, W) uint8.

    Raises:
        DataError: An image cannot be encoded or read again.
    """
    return deliver_and_tell(pixels, steps, seed)[0]


def deliver_and_tell(pixels: Tensor, steps: Sequence[Step], seed: int) -> tuple[Tensor, list[list[Change]]]:
    """As `deliver`; also what was done to each image.

    Raises:
        DataError: An image cannot be encoded or read again.
    """
    ways = deliver_each(pixels, steps, seed)
    arrived = torch.stack([image for image, _ in ways]) if ways else pixels.clone()
    return arrived, [changes for _, changes in ways]


def deliver_each(images: Iterable[Tensor], steps: Sequence[Step], seed: int) -> list[tuple[Tensor, list[Change]]]:
    """(3, H, W) uint8 images as they arrive, each with what was done to it.

    Raises:
        DataError: An image cannot be encoded or read again.
    """
    return [
        _one(image, steps, torch.Generator().manual_seed(derived_seed(seed, row))) for row, image in enumerate(images)
    ]


def _one(image: Tensor, steps: Sequence[Step], random: torch.Generator) -> tuple[Tensor, list[Change]]:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    changes = []
    for step in steps:
        try:
            amount = draw_number(step.amount, random)
            picture, box = _APPLY[step.kind](picture, amount, step, random)
        except (OSError, ValueError) as error:
            raise DataError(
                f"delivery step {step.kind}: an image of {picture.width}×{picture.height} cannot be sent so ({error}): "
                "take this step out, or another codec"
            ) from error
        changes.append(Change(step.kind, amount, box))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous(), changes


def _jpeg(picture: Image.Image, quality: float, step: Step, random: torch.Generator) -> Sent:
    chosen = step.subsampling[_below(len(step.subsampling), random)]
    return _coded(picture, "JPEG", quality=round(quality), subsampling=SUBSAMPLINGS[chosen])


def _webp(picture: Image.Image, quality: float, step: Step, random: torch.Generator) -> Sent:
    return _coded(picture, "WEBP", quality=round(quality))


def _coded(picture: Image.Image, format: str, **settings: int) -> Sent:
    file = io.BytesIO()
    picture.save(file, format, **settings)
    with Image.open(file) as read:
        return read.convert("RGB"), NOWHERE


def _resize(picture: Image.Image, scale: float, step: Step, random: torch.Generator) -> Sent:
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    there = picture.resize(size, Image.Resampling.BICUBIC)
    return there.resize(picture.size, Image.Resampling.BICUBIC), (0, 0, *size)


def _crop(picture: Image.Image, share: float, step: Step, random: torch.Generator) -> Sent:
    width, height = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    left = _below(picture.width - width + 1, random)
    top = _below(picture.height - height + 1, random)
    part = (left, top, left + width, top + height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=part), part


def _noise(picture: Image.Image, sigma: float, step: Step, random: torch.Generator) -> Sent:
    values = torch.from_numpy(np.array(picture)).double()
    noisy = values + sigma * 255 * torch.randn(values.shape, generator=random, dtype=torch.float64)
    return Image.fromarray(noisy.round().clamp(0, 255).to(torch.uint8).numpy()), NOWHERE


def _below(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=random))


_APPLY: dict[StepKind, Callable[[Image.Image, float, Step, torch.Generator], Sent]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "crop": _crop,
    "noise": _noise,
}

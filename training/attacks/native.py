"""Photographs changed at their own size: native pixels in; native pixels, and what the classifier sees of them, out.

    photograph ─▶ resize, crop, 8 bits (`Classifier.prepare`) ─▶ classifier ─▶ logits
               ◀─ the same resize and crop of torch, antialiased ◀── gradient ◀─

Someone who attacks a file changes what is there before it is resized. Photographs have different sizes, so they are
attacked one at a time. In a shard they lie in a row, `native`, with their `native_size` (n, 2) height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.classifier import Classifier
from detector.classifier.preprocessing import resized_to
from training.attacks.attacks import Distance, attack_images
from training.attacks.through import foreseeing, rounded, straight
from training.config import AttackSpec
from training.deliveries import Step
from training.shards import derived_seed

__all__ = ["NATIVE", "at_size", "attack_native", "pack", "prepared", "unpack"]

NATIVE = ("native", "native_size")
_MODES = {"box": "bilinear", "hamming": "bilinear", "lanczos": "bicubic", "nearest": "nearest-exact"}
"""What of torch has a gradient like that of Pillow's resampling, where it is not of the same name."""


def attack_native(
    spec: AttackSpec,
    target: Classifier,
    classifier: Classifier,
    photographs: Sequence[Tensor],
    origin: Tensor,
    *,
    foreseen: Sequence[Step] = (),
    seed: int,
) -> tuple[list[Tensor], Distance]:
    """Attack photographs at their own size.

    Args:
        spec: The attack.
        target: What is attacked: takes images of the classifier's size.
        classifier: Prepares photographs.
        photographs: n of (3, H, W) uint8.
        origin: (n,) predictions on them.
        foreseen: What the attack expects to happen to them on the way.
        seed: Decides everything random; a photograph's draws depend on its row, and not on the others.

    Returns:
        Photographs of the same sizes, and how far they are from what they were.

    Raises:
        ConfigError: The attack fails.
        DataError: It went further than its epsilon.
    """
    attacked, sizes = [], []
    for row, photograph in enumerate(photographs):
        size = (photograph.shape[1], photograph.shape[2])
        behind = foreseeing(at_size(target, classifier, size), foreseen)
        before, label = photograph[None], origin[row : row + 1]
        after = attack_images(spec, behind, before, label, seed=derived_seed(seed, row), batch_size=1)
        attacked.append(after[0])
        sizes.append(Distance.between(before, after))
    nothing = torch.zeros(0)
    linf, l2 = (torch.cat([nothing, *(getattr(size, name) for size in sizes)]) for name in ("linf", "l2"))
    return attacked, Distance(linf, l2)


def at_size(target: Classifier, classifier: Classifier, size: tuple[int, int]) -> Classifier:
    """`target` as it answers about photographs of `size` (height, width) that `classifier` prepares."""
    if size == classifier.input_size:
        return target
    other = copy.copy(target)
    other.module, other.input_size = _Prepared(target.module, classifier), size  # type: ignore[assignment]
    return other


def prepared(classifier: Classifier, photographs: Sequence[Tensor]) -> Tensor:
    """(n, 3, h, w) uint8: what the classifier sees of (3, H, W) uint8 photographs."""
    seen = [classifier.prepare(each.permute(1, 2, 0).numpy()).mul(255).round().to(torch.uint8) for each in photographs]
    return torch.stack(seen) if seen else torch.zeros((0, 3, *classifier.input_size), dtype=torch.uint8)


def pack(photographs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Photographs of different sizes as the tensors `NATIVE`."""
    flat = [each.reshape(-1) for each in photographs]
    sizes = torch.tensor([each.shape[1:] for each in photographs], dtype=torch.int64).view(-1, 2)
    return dict(zip(NATIVE, (torch.cat(flat) if flat else torch.zeros(0, dtype=torch.uint8), sizes), strict=True))


def unpack(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """What `pack` packed; nothing where there is nothing."""
    if NATIVE[0] not in tensors:
        return []
    flat, sizes = (tensors[name] for name in NATIVE)
    shapes = [(3, int(height), int(width)) for height, width in sizes.tolist()]
    parts = torch.split(flat, [3 * height * width for _, height, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class _Prepared(nn.Module):
    """Photographs (B, 3, H, W) in [0, 1] → logits (B, K), exactly as they are prepared."""

    def __init__(self, module: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.module = module
        self.preprocessing, self.size, self.prepare = (
            classifier.spec.preprocessing,
            classifier.input_size,
            classifier.prepare,
        )
        self.training = False

    @property
    def net(self) -> nn.Module:
        """The user's net."""
        return cast("nn.Module", self.module.net)

    def forward(self, images: Tensor) -> Tensor:
        seen = [self.prepare(each.permute(1, 2, 0).numpy()) for each in rounded(images)]
        logits: Tensor = self.module(straight(torch.stack(seen).to(images), images, self._resized))
        return logits

    def _resized(self, images: Tensor) -> Tensor:
        """Resized and cropped, with a gradient."""
        height, width = self.size
        tall, wide = resized_to(images.shape[2], images.shape[3], self.size, self.preprocessing.resize)
        mode = _MODES.get(self.preprocessing.interpolation, self.preprocessing.interpolation)
        whole = functional.interpolate(images, size=(tall, wide), mode=mode, antialias=mode in ("bilinear", "bicubic"))
        top, left = round((tall - height) / 2), round((wide - width) / 2)
        # where the whole is smaller than the crop, Pillow fills with black
        beyond = (-left, left + width - wide, -top, top + height - tall)
        return functional.pad(whole, beyond)

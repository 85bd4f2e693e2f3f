"""Attacks that foresee a delivery: a classifier and the steps of a delivery in, what such an attack is made on out.

    images ─▶ deliver (the real codec, 8 bits) ─▶ classifier ─▶ logits
           ◀─ straight through, or resized back ◀─ gradient ◀─

Athalye, Carlini & Wagner 2018 ("Obfuscated gradients give a false sense of security"): what has no useful gradient is
run as it is, and its gradient is that of something smooth near it (BPDA): of codecs, rounding and noise the image
itself, of a resize or crop the same resize or crop. Quality and place are drawn anew for each pass (Athalye et al.
2018, expectation over transformation).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.classifier import Classifier
from training.attacks.deliver import Box, Change, deliver_and_tell
from training.deliveries import Step, StepKind

__all__ = ["foreseeing", "rounded", "sent", "straight"]

SEEDS = 2**31


def foreseeing(classifier: Classifier, steps: Sequence[Step]) -> Classifier:
    """The classifier as it answers about images that are delivered first; itself, where there is no step."""
    if not steps:
        return classifier
    other = copy.copy(classifier)
    other.module = _Delivered(classifier.module, steps)  # type: ignore[assignment]
    return other


def sent(images: Tensor, steps: Sequence[Step], seed: int) -> Tensor:
    """What `deliver` makes of images, with a gradient.

    Args:
        images: (B, 3, H, W) float in [0, 1]; rounded to 8 bits first, as an attack is.
        steps: What happens, in this order.
        seed: Decides what is drawn.

    Returns:
        (B, 3, H, W), what arrives to the last digit.

    Raises:
        DataError: An image cannot be encoded or read again.
    """
    arrived, changes = deliver_and_tell(rounded(images), steps, seed)

    def smooth(images: Tensor) -> Tensor:
        if not any(change.kind in _SMOOTH for each in changes for change in each):
            return images
        return torch.cat([_smooth(images[row : row + 1], each) for row, each in enumerate(changes)])

    return straight(arrived.to(images.device).to(images.dtype) / 255, images, smooth)


def rounded(images: Tensor) -> Tensor:
    """Images in [0, 1] as files hold them: uint8, on the CPU."""
    return images.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


def straight(hard: Tensor, images: Tensor, smooth: Callable[[Tensor], Tensor]) -> Tensor:
    """`hard`, with the gradient that `smooth(images)` has."""
    if not (images.requires_grad and torch.is_grad_enabled()):
        return hard
    soft = smooth(images)
    return hard + (soft - soft.detach())


class _Delivered(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → logits (B, K) of what arrives. Draws from torch, which the job seeds."""

    def __init__(self, module: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__()
        self.module, self.steps = module, steps
        self.training = False

    @property
    def net(self) -> nn.Module:
        """The user's net."""
        return cast("nn.Module", self.module.net)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(sent(images, self.steps, int(torch.randint(SEEDS, ()))))
        return logits


def _smooth(image: Tensor, changes: Sequence[Change]) -> Tensor:
    """(1, 3, H, W): what of the changes has a gradient."""
    for change in changes:
        if change.kind in _SMOOTH:
            image = _SMOOTH[change.kind](image, change.box)
    return image


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True)  # as Pillow's


def _there_and_back(image: Tensor, box: Box) -> Tensor:
    return _resized(_resized(image, (box[3], box[2])), (image.shape[2], image.shape[3]))


def _part(image: Tensor, box: Box) -> Tensor:
    left, top, right, bottom = box
    return _resized(image[:, :, top:bottom, left:right], (image.shape[2], image.shape[3]))


_SMOOTH: dict[StepKind, Callable[[Tensor, Box], Tensor]] = {"resize": _there_and_back, "crop": _part}

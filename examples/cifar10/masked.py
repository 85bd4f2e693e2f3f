"""A classifier that learns under masks: normalised images in, the loss of images with a window hidden out.

One window of a mask set against patches is hidden in most images of each batch, a random one, filled with what is
around it, as the detector fills it (`detector.evidence.covering`): cutout (DeVries & Taylor 2017) by the masks of the
defence itself, as Xiang et al. 2022 ("PatchCleanser") train their nets. Saha et al. 2023 ("Revisiting Image Classifier
Training for Improved Certified Robust Defense against Adversarial Patches") look for the worst windows instead, which
costs more forward passes. `UnderMasks` says what held-out images win by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CifarNet
from detector.evidence.covering import Covering, Window, filled
from detector.settings import PatchSettings

__all__ = ["UnderMasks", "hide", "masked_loss", "windows"]

COUNTS = (16, 36, 64)
"""Of masks in the sets that are learnt under."""
MASKED = 0.75
"""Share of a batch with a window hidden."""


@cache
def windows(size: tuple[int, int], areas: tuple[float, ...]) -> tuple[Window, ...]:
    """All windows of the mask sets of images (H, W), for patches of these shares of the area."""
    sets = (Covering.of(size, PatchSettings(area=area, masks=count)) for area in areas for count in COUNTS)
    return tuple(window for each in sets for window in each.windows)


def hide(x: Tensor, choice: Sequence[Window], drawn: Tensor) -> Tensor:
    """(B, 3, H, W) with window `drawn` (B,) of the choice hidden in each image; none where it is negative."""
    hidden = x.clone()
    for at in sorted(set(drawn.tolist())):
        if at >= 0:
            rows = drawn == at
            hidden[rows] = filled(x[rows], choice[at])
    return hidden


def masked_loss(net: CifarNet, x: Tensor, targets: Tensor, *, areas: tuple[float, ...], smoothing: float) -> Tensor:
    """Cross-entropy of a batch, most of it under a random window."""
    choice = windows((x.shape[-2], x.shape[-1]), areas)
    drawn = torch.randint(len(choice), (len(x),)).masked_fill(torch.rand(len(x)) >= MASKED, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(hide(x, choice, drawn))
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


@dataclass(frozen=True)
class UnderMasks:
    """How often a net is right on held-out images of which something is hidden."""

    x: Tensor  # (N, 3, H, W), normalised
    labels: Tensor
    covering: Covering

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> str:
        """Say how often under a window, under every window, and under two random ones (one hidden after the other)."""
        training, choice = net.training, self.covering.windows
        net.eval()
        generator = torch.Generator().manual_seed(0)
        one, two = [], []
        for window in choice:
            under = filled(self.x, window)
            second = torch.randint(len(choice), (len(under),), generator=generator)
            one.append(self._right(net, under))
            two.append(self._right(net, hide(under, choice, second)))
        net.train(training)
        alone, pairs = torch.stack(one), torch.stack(two)  # (n, N)
        return (
            f"under one of {len(choice)} masks {_mean(alone):.4f}, under every one {_mean(alone.all(0)):.4f}, "
            f"under two {_mean(pairs):.4f}"
        )

    def _right(self, net: nn.Module, x: Tensor) -> Tensor:
        said = torch.cat([net(part).argmax(1) for part in torch.split(x, 250)])
        return said == self.labels


def _mean(right: Tensor) -> float:
    return float(right.double().mean())

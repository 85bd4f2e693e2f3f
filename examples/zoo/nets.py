"""Nets that no library offers by name: the factories of `python:examples.zoo.nets:…` sources."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

__all__ = ["cifar_resnet18"]


def cifar_resnet18(channels: Sequence[int] = (64, 128, 256, 512), classes: int = 10) -> nn.Module:
    """ResNet-18 (He et al. 2016) for images of 32 px: the first convolution is 3×3 and halves nothing.

    Args:
        channels: Of the four stages.
        classes: Number of classes.
    """
    net = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm's annotation asks for an instance
        (2, 2, 2, 2),
        num_classes=classes,
        channels=tuple(channels),
        stem_type="deep",
        stem_width=channels[0] // 2,
    )
    net.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)  # type: ignore[assignment]
    return net

"""The tiny classifier behind a wall: answers without gradients. `python:hidden:net`."""

from __future__ import annotations

import tiny
import torch
from torch import Tensor, nn


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = tiny.net()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inside(images)


def net() -> nn.Module:
    return Hidden()


def weights() -> dict[str, Tensor]:
    return {f"inside.{name}": value for name, value in tiny.trained_weights().items()}

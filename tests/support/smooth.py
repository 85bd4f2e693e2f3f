"""A tiny net without kinks, so that finite differences tell its gradients; its random weights mean nothing."""

from __future__ import annotations

import tiny
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, load_classifier


class SmoothNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.AvgPool2d(2))
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.GELU(), nn.AvgPool2d(2))
        self.head = nn.Linear(8 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block2(self.block1(x)).flatten(1))
        return 4 * logits


def net() -> nn.Module:
    return SmoothNet()


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = net().state_dict()
    return load_classifier(tiny.SPEC.model_copy(update={"source": "python:smooth:net"}), state_dict=weights)

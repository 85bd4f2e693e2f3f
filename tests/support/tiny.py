"""A tiny problem that tests can learn in a second: which texture does the patch on a noisy background have?

16×16 images, four classes, an 8×8 patch at a random place. `net` is a factory for `python:tiny:net`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec, Preprocessing, load_classifier

CLASSES = ("horizontal", "vertical", "diagonal", "checker")
SIDE = 16
PATCH = 8

SPEC = ClassifierSpec(
    source="python:tiny:net",
    input_size=(SIDE, SIDE),
    classes=CLASSES,
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
)


@dataclass(frozen=True)
class TinyImages:
    images: Tensor  # (N, 3, 16, 16) in [0, 1], multiples of 1/255
    labels: Tensor  # (N,)
    corners: Tensor  # (N, 2) row and column of the patch's top left pixel


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class TinyNet(nn.Module):
    """Three blocks of sides 16, 8, 4, average pooling, one linear layer: 4,000 parameters."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.block1 = Block(3, width, 1)
        self.block2 = Block(width, 2 * width, 2)
        self.block3 = Block(2 * width, 2 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return self.head(self.pool(x).flatten(1))


def net(width: int = 8, classes: int = len(CLASSES)) -> nn.Module:
    return TinyNet(width, classes)


def images(count: int, seed: int = 0) -> TinyImages:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    corners = torch.randint(0, SIDE - PATCH + 1, (count, 2), generator=generator)
    row, column = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    textures = torch.stack([row // 2 % 2, column // 2 % 2, (row + column) // 2 % 2, (row // 2 + column // 2) % 2])
    canvas = 0.5 + 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    contrast = 0.1 + 0.15 * torch.rand(count, 1, 1, 1, generator=generator)
    for index, (top, left) in enumerate(corners.tolist()):
        patch = canvas[index, :, top : top + PATCH, left : left + PATCH]
        patch += contrast[index] * (2 * textures[labels[index]] - 1)
    return TinyImages((canvas.clamp(0, 1) * 255).round() / 255, labels, corners)


def trained_weights(steps: int = 80, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = net()
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for step in range(steps):
            batch = images(64, seed=1000 + step)
            loss = nn.functional.cross_entropy(network((batch.images - 0.5) / 0.25), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.state_dict()


def classifier() -> Classifier:
    return load_classifier(SPEC, state_dict=trained_weights())

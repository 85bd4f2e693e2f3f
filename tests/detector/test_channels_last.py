"""Layers whose output is (B, h, w, C) are read as maps (B, C, h, w), within a block or throughout the net."""

from __future__ import annotations

import architectures
import pytest
import torch
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.evidence import EvidenceExtractor, EvidenceSettings

CLASSES = ("a", "b", "c")


class Block(nn.Module):
    """From NCHW to NCHW by way of NHWC, as in ConvNeXt; or NHWC throughout, as in Swin."""

    def __init__(self, permutes: bool) -> None:
        super().__init__()
        self.permutes = permutes
        self.norm, self.linear, self.activation = nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1) if self.permutes else x
        x = self.activation(self.linear(self.norm(x)))
        return x.permute(0, 3, 1, 2) if self.permutes else x


class Net(nn.Module):
    def __init__(self, permutes: bool) -> None:
        super().__init__()
        self.permutes = permutes
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(Block(permutes), Block(permutes))
        self.pool, self.head = nn.AdaptiveAvgPool2d(4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.blocks(x if self.permutes else x.permute(0, 2, 3, 1))
        x = x if self.permutes else x.permute(0, 3, 1, 2)
        return self.head(self.pool(x).mean((2, 3)))


def load(permutes: bool, size: tuple[int, int]) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return architectures.load(Net(permutes), size, CLASSES)


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16), (24, 40), (12, 12)])
@pytest.mark.parametrize("permutes", [True, False])
def test_each_layer_has_its_own_layout(permutes: bool, size: tuple[int, int]) -> None:
    """At 12×12 maps have as many rows and columns as channels, so shapes tell nothing."""
    classifier = load(permutes, size)
    axes = {tap.name: tap.layout.axes for tap in classifier.taps}
    block = "NCHW" if permutes else "NHWC"
    assert {axes[name] for name in ("stem", "stem.0", "stem.1", "pool")} == {"NCHW"}
    assert {axes[name] for name in ("blocks", "blocks.0", "blocks.1")} == {block}
    assert {axes[f"blocks.{index}.{name}"] for index in "01" for name in ("norm", "linear", "activation")} == {"NHWC"}
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    _, maps = classifier.activations(images, classifier.layers)
    assert {tuple(maps[name].shape) for name in axes if name != "pool"} == {(2, 6, size[0] // 2, size[1] // 2)}


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_a_net_of_channels_last_blocks_gives_evidence(size: tuple[int, int]) -> None:
    extractor = EvidenceExtractor(load(False, size), EvidenceSettings())
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    evidence, heatmaps = extractor.with_heatmap(images)
    assert heatmaps.shape[2] * size[0] == heatmaps.shape[1] * size[1]
    assert evidence.groups["margin.channels"].shape == (3, 3 * 6 * len(extractor.layers))

"""Layers whose output is (B, h, w, C) are never read as (B, C, h, w): left out, or the net is refused."""

from __future__ import annotations

import types

import pytest
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec, load_classifier
from detector.errors import NoGradientError
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


def load(monkeypatch: pytest.MonkeyPatch, permutes: bool, size: tuple[int, int]) -> Classifier:
    nets = types.ModuleType("channels_last_nets")
    nets.net = lambda: Net(permutes)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "channels_last_nets", nets)
    spec = ClassifierSpec(source="python:channels_last_nets:net", input_size=size, classes=CLASSES)
    return load_classifier(spec)


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16), (24, 40)])
def test_only_true_maps_are_layers(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    layers = load(monkeypatch, True, size).layers
    assert {"stem", "blocks", "blocks.0", "blocks.1"} <= set(layers)
    assert not [name for name in layers if name.endswith(("norm", "linear"))]
    if size[0] != size[1]:
        assert "pool" in layers  # square on any image, but channels first


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_a_net_of_channels_last_blocks_is_refused_as_evidence(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    classifier = load(monkeypatch, False, size)
    assert classifier.layers == () and classifier.differentiable
    with pytest.raises(NoGradientError, match="channels-last"):
        EvidenceExtractor(classifier, EvidenceSettings())

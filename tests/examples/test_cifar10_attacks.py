"""The attacks that are the recipe's own."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from detector.architectures import cifar10_net
from examples.cifar10.attacks import WIDTHS, mixture, transfer

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
LABELS = torch.tensor([0, 1, 2])


def never_asked(images: Tensor) -> Tensor:
    raise AssertionError("the classifier was asked")


def test_transfer_climbs_on_the_witness_alone_within_its_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = cifar10_net(widths=WIDTHS)
    weights = tmp_path / "witness.safetensors"
    save_file(net.state_dict(), weights)
    attacked = transfer(never_asked, IMAGES, LABELS, weights=str(weights))
    assert 7 / 255 < (attacked - IMAGES).abs().max() <= 8 / 255 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1


def test_a_mixture_is_turned_and_then_climbs_on_the_classifier() -> None:
    def classifier(images: Tensor) -> Tensor:
        return torch.stack([-images.mean((1, 2, 3)), images.mean((1, 2, 3))], dim=1)

    labels = torch.tensor([0, 1, 1])  # label 0: brighter is further from it
    turned = mixture(classifier, IMAGES, labels, eps=0.0)
    attacked = mixture(classifier, IMAGES, labels, eps=4 / 255)
    assert (turned - IMAGES).abs().max() > 0.1
    moved = (attacked - turned).mean((1, 2, 3))
    assert moved[0] > 0 > moved[1]
    assert (attacked - turned).abs().max() <= 4 / 255 + 1e-6

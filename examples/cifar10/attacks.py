"""Attacks of the recipe that no library has: images (B, 3, H, W) in [0, 1] in, attacked ones out.

`transfer` is made on the witness and not on the classifier (Papernot et al. 2017), so what succeeds mostly fools both;
`mixture` turns and brightens a picture, then takes small gradient steps, after the compositions of Hsiung et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import adjust_brightness, rotate

from detector.architectures import cifar10_net
from examples.cifar10.classifier import normalise

__all__ = ["mixture", "transfer"]

Net = Callable[[Tensor], Tensor]


WIDTHS = (32, 96, 96)


def transfer(
    classifier: Net,
    images: Tensor,
    labels: Tensor,
    eps: float = 8 / 255,
    steps: int = 10,
    weights: str = "work/cifar10_witness.safetensors",
) -> Tensor:
    """PGD on the recipe's witness, L∞."""
    witness = _witness(weights)
    return _ascend(lambda seen: witness(normalise(255 * seen)), images, images, labels, eps, steps)


def mixture(classifier: Net, images: Tensor, labels: Tensor, eps: float = 4 / 255, steps: int = 10) -> Tensor:
    """10° and a tenth brighter, then PGD from there."""
    changed = adjust_brightness(rotate(images, 10.0), 1.1)
    return _ascend(classifier, changed, changed, labels, eps, steps)


@cache
def _witness(weights: str) -> nn.Module:
    net = cifar10_net(widths=WIDTHS)
    net.load_state_dict(load_file(weights))
    return net.eval().requires_grad_(False)


def _ascend(net: Net, start: Tensor, centre: Tensor, labels: Tensor, eps: float, steps: int) -> Tensor:
    step, attacked = 2.5 * eps / steps, start.clone()
    for _ in range(steps):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(net(attacked), labels), attacked)
        attacked = attacked.detach() + step * gradient.sign()
        attacked = torch.minimum(torch.maximum(attacked, centre - eps), centre + eps).clamp(0, 1)
    return attacked

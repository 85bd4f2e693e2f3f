"""Muon, the optimiser of convolutions: weights with gradients in, the same weights after a step out.

Each gradient, with momentum, is replaced by the nearest semi-orthogonal matrix (Jordan et al. 2024, "Muon").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

MOMENTUM = 0.6


def orthogonalise(gradient: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    matrix = gradient.flatten(1)
    matrix = matrix / (matrix.norm() + 1e-7)
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    for _ in range(steps):
        gram = matrix @ matrix.T
        matrix = a * matrix + (b * gram + c * gram @ gram) @ matrix
    nearest: Tensor = (matrix.T if tall else matrix).view_as(gradient)
    return nearest


class Muon:
    """Muon for convolutions followed by a norm layer: each weight is kept on a sphere and rotated."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self.momentum = [torch.zeros_like(w) for w in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for weight, momentum in zip(self.weights, self.momentum, strict=True):
            if weight.grad is None:
                continue
            momentum.mul_(MOMENTUM).add_(weight.grad)
            direction = weight.grad + MOMENTUM * momentum
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.sub_(lr * orthogonalise(direction))
            weight.grad = None

"""What an attacker may send: **any images in, images within the budget out**, as a file holds them.

A step walks in real numbers; what is looked at, and sent, are 8-bit images. Every gradient is taken at one of those,
and moves the real numbers behind it (a straight-through step), so that nothing is lost by rounding at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.redteam.values import Budget

__all__ = ["Ball"]

SHRINKS = 20
SHRINK = 0.97
TINY = 1e-12
SLACK = 1e-6


@dataclass(frozen=True)
class Ball:
    """Images within a budget of B originals.

    Attributes:
        centre: (B, 3, H, W) in [0, 1], multiples of 1/255.
        budget: Norm and size.
    """

    centre: Tensor
    budget: Budget

    def __getitem__(self, rows: Tensor) -> Ball:
        """Around some of the originals."""
        return Ball(self.centre[rows], self.budget)

    def project(self, images: Tensor, radius: Tensor | None = None) -> Tensor:
        """The nearest images (B, 3, H, W) within the ball, in [0, 1].

        Args:
            images: (B, 3, H, W).
            radius: (B,) smaller ones than the budget's; None: the budget's.
        """
        bound = self._bound(radius)
        change = images - self.centre
        if self.budget.norm == "Linf":
            change = torch.maximum(torch.minimum(change, bound), -bound)
        else:
            change = change * (bound / _length(change)).clamp_max(1)
        return (self.centre + change).clamp(0, 1)

    def sent(self, images: Tensor) -> Tensor:
        """Images of the ball as a file holds them: (B, 3, H, W), multiples of 1/255, none further than the budget."""
        centre = (self.centre * 255).round()
        change = images * 255 - centre
        if self.budget.norm == "Linf":
            most = int(self.budget.eps * 255 + SLACK)
            return (centre + change.round().clamp(-most, most)).clamp(0, 255) / 255
        rounded = change.round()
        for _ in range(SHRINKS):  # rounding may lead out of a ball that is round
            outside = self._outside(rounded)
            if not outside.any():
                break
            change = torch.where(outside, SHRINK * change, change)
            rounded = change.round()
        rounded = torch.where(self._outside(rounded), change.trunc(), rounded)
        return (centre + rounded).clamp(0, 255) / 255

    def step(self, images: Tensor, direction: Tensor, size: float, radius: Tensor | None = None) -> Tensor:
        """Images moved along a direction by a share of the radius (B,): of each pixel, or of the whole change."""
        length = size * self._bound(radius)
        if self.budget.norm == "Linf":
            return images + length * direction.sign()
        return images + length * direction / _length(direction)

    def draw(self, generator: torch.Generator, *, edge: bool = False) -> Tensor:
        """Images drawn evenly from the ball, or from its edge (of L∞: from its corners), in real numbers."""
        shape, device = self.centre.shape, self.centre.device
        if self.budget.norm == "Linf":
            change = 2 * torch.rand(shape, generator=generator) - 1
            change = change.sign() if edge else change
        else:
            change = torch.randn(shape, generator=generator)
            share = torch.rand(shape[0], 1, 1, 1, generator=generator) ** (1 / change[0].numel())
            change = change / _length(change) * (1 if edge else share)
        return self.project(self.centre + self.budget.eps * change.to(device))

    def distance(self, images: Tensor) -> Tensor:
        """(B,) how far images are from the originals, in the budget's norm."""
        change = (images - self.centre).flatten(1)
        return change.abs().amax(1) if self.budget.norm == "Linf" else change.norm(dim=1)

    def _bound(self, radius: Tensor | None) -> Tensor:
        """(B, 1, 1, 1) radii; None: the budget's."""
        if radius is None:
            return torch.full_like(self.centre[:, :1, :1, :1], self.budget.eps)
        return radius.to(self.centre).view(-1, 1, 1, 1)

    def _outside(self, change: Tensor) -> Tensor:
        """(B, 1, 1, 1) whether a change of this many 1/255 is too long."""
        outside: Tensor = _length(change) > self.budget.eps * 255 + SLACK
        return outside


def _length(change: Tensor) -> Tensor:
    """(B, 1, 1, 1) L2."""
    length: Tensor = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
    return length.clamp_min(TINY)

"""SimBA with cosines: images and a score oracle in, images moved along low-frequency directions out.

Guo, Gardner, You, Wilson & Weinberger 2019, "Simple Black-box Adversarial Attacks", algorithm 1 with the discrete
cosine basis of section 4.2, low frequencies alone: directions come in random order; a step along one stays where the
loss falls, else the step against it is tried. The sum is kept within the budget.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.redteam.blackbox.goal import Found, Goal, within
from training.redteam.values import Budget

__all__ = ["simba"]

SHARE = 8
"""Frequencies up to 1/8 of the image's side, as in the paper."""
STEP = 0.2
"""Of an L2 budget."""


def simba(goal: Goal, images: Tensor, budget: Budget, seed: int) -> Found:
    """Search."""
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = images.shape
    every = torch.arange(count)
    best, loss = images.clone(), goal.loss(images, every)
    spent = torch.ones(count, dtype=torch.long)
    waves = _waves(height, width)  # (n, H, W)
    curve, sign, direction = [loss.mean()], 1.0, waves[0]
    order: list[int] = []
    stayed = torch.zeros(count, dtype=torch.bool)
    for asked in range(1, budget.steps):
        rows = (loss > 0).nonzero()[:, 0]
        if not len(rows):
            break
        if asked % 2:  # a new direction; every other question is about its opposite
            if not order:
                order = torch.randperm(3 * len(waves), generator=generator).tolist()
            channel, wave = divmod(order.pop(), len(waves))
            direction = torch.zeros_like(images[0])
            direction[channel] = waves[wave]
            sign, stayed = 1.0, torch.zeros(count, dtype=torch.bool)
        else:
            sign, rows = -1.0, rows[~stayed[rows]]
            if not len(rows):
                continue
        tried = within(best[rows] + sign * _length(direction, budget) * direction, images[rows], budget)
        found = goal.loss(tried, rows)
        spent[rows] += 1
        better = found < loss[rows]
        best[rows[better]], loss[rows[better]] = tried[better], found[better]
        stayed[rows[better]] = True
        curve.append(loss.mean())
    return Found(best, loss <= 0, spent, torch.stack(curve).float())


def _length(direction: Tensor, budget: Budget) -> float:
    return budget.eps / float(direction.abs().amax()) if budget.norm == "Linf" else STEP * budget.eps


def _waves(height: int, width: int) -> Tensor:
    """(n, H, W) of unit length: the cosines of low frequency, DCT-II."""
    tall, wide = (
        torch.stack([torch.cos(math.pi * (torch.arange(side) + 0.5) * k / side) for k in range(max(2, side // SHARE))])
        for side in (height, width)
    )
    waves = (tall[:, None, :, None] * wide[None, :, None, :]).flatten(0, 1)
    unit: Tensor = waves / waves.flatten(1).norm(dim=1).view(-1, 1, 1)
    return unit

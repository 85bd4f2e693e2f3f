"""Square attack, L∞: images and a score oracle in, images with a few squares at the corners of the budget out.

Andriushchenko, Croce, Flammarion & Hein 2020, "Square Attack: a query-efficient black-box adversarial attack via random
search", algorithms 1 and 2: vertical stripes of ±ε to begin with, then squares of ±ε at random places, ever smaller; a
square stays where the loss falls. All images of a batch search side by side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detector.errors import ConfigError
from training.redteam.blackbox.goal import Found, Goal, within
from training.redteam.values import Budget

__all__ = ["square"]

SHARE = 0.8
"""Of the image that the first squares cover (Croce & Hein 2020, AutoAttack)."""
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 questions: where the share halves (section 3.1)."""


def square(goal: Goal, images: Tensor, budget: Budget, seed: int) -> Found:
    """Search.

    Raises:
        ConfigError: Another norm than L∞.
    """
    if budget.norm != "Linf":
        raise ConfigError("the Square attack of this red team knows L∞ only: leave it out for L2, or take simba")
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = images.shape
    stripes = _signs((count, 3, 1, width), generator)
    best = within(images + budget.eps * stripes.expand_as(images), images, budget)
    loss = goal.loss(best, torch.arange(count))
    spent = torch.ones(count, dtype=torch.long)
    curve = [loss.mean()]
    for asked in range(1, budget.steps):
        rows = (loss > 0).nonzero()[:, 0]
        if not len(rows):
            break
        tried = best[rows].clone()
        side = _side(asked, budget.steps, height, width)
        tops = torch.randint(0, height - side + 1, (len(rows),), generator=generator).tolist()
        lefts = torch.randint(0, width - side + 1, (len(rows),), generator=generator).tolist()
        signs = _signs((len(rows), 3, 1, 1), generator)
        for at, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            place = (slice(None), slice(top, top + side), slice(left, left + side))
            tried[at][place] = images[rows[at]][place] + budget.eps * signs[at]
        tried = within(tried, images[rows], budget)
        found = goal.loss(tried, rows)
        spent[rows] += 1
        better = found < loss[rows]
        best[rows[better]], loss[rows[better]] = tried[better], found[better]
        curve.append(loss.mean())
    return Found(best, loss <= 0, spent, torch.stack(curve).float())


def _side(asked: int, queries: int, height: int, width: int) -> int:
    halvings = sum(asked * 10_000 >= at * queries for at in HALVED)
    side = round(math.sqrt(SHARE / 2.0**halvings * height * width))
    return max(1, min(side, height - 1, width - 1))


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).mul(2).sub(1).float()

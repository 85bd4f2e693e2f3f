"""One optimiser for every learned mask: rows of parameters climb side by side, each stops by itself.

A row's way depends on nothing but the row: Adam (Kingma & Ba 2015) is element-wise and a row that stops leaves the
batch. A batch of n gives what n batches of one give, up to the rounding of the classifier's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Ascent", "Climb", "climb"]

Ascent: TypeAlias = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(parameters (n, …), which rows they are (n,), step) → objective (n,) and its gradient (n, …)."""

FIRST, SECOND = 0.9, 0.99  # decay of Adam's moments: few steps need a short memory
FLOOR = 1e-12


@dataclass(frozen=True)
class Climb:
    """Settings of an ascent."""

    steps: int
    rate: float
    patience: int
    """Steps without progress after which a row stops."""
    tolerance: float
    """What counts as progress: a share of the best objective's size."""


@torch.no_grad()
def climb(start: Tensor, ascent: Ascent, settings: Climb) -> tuple[Tensor, Tensor]:
    """Follow the gradient from `start` (N, …); the best parameters that were seen (N, …) and the steps taken (N,)."""
    best, taken = start.clone(), torch.zeros(len(start), dtype=torch.long, device=start.device)
    highest = torch.full((len(start),), -torch.inf, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    parameters, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    waited = torch.zeros_like(taken)
    for step in range(1, settings.steps + 1):
        objective, gradient = ascent(parameters, rows, step)
        taken[rows] = step
        progress = objective - highest[rows] > settings.tolerance * objective.abs()
        better = objective > highest[rows]
        highest[rows[better]], best[rows[better]] = objective[better], parameters[better]
        waited = torch.where(progress, 0, waited + 1)
        going = waited < settings.patience
        if not going.all():
            rows, parameters, gradient = rows[going], parameters[going], gradient[going]
            first, second, waited = first[going], second[going], waited[going]
            if not len(rows):
                break
        first = FIRST * first + (1 - FIRST) * gradient
        second = SECOND * second + (1 - SECOND) * gradient.square()
        scale = (second / (1 - SECOND**step)).sqrt() + FLOOR
        parameters = parameters + settings.rate * first / (1 - FIRST**step) / scale
    return best, taken

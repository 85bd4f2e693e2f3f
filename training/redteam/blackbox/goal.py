"""What an attacker who only asks wants: images in, how far they are from it (or whether they are there) out.

There is an image whose label is another one and that is not flagged. An attacker who knows nothing of heatward wants
the first alone. The score that is lowered is the margin of log-probabilities plus how far the p-value lies below the
rate, in logarithms: both are 0 where the image is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.redteam.oracles import Answers, Oracle, to_8_bits
from training.redteam.values import Budget

__all__ = ["Found", "Goal", "column", "project", "within"]

HIDDEN = 1.0
"""What a flag costs where the p-value is kept back."""


@dataclass(frozen=True)
class Found:
    """What an attack found for B images."""

    images: Tensor  # (B, 3, H, W), multiples of 1/255; where nothing was found, the best try
    reached: Tensor  # (B,) bool
    spent: Tensor  # (B,) int64, images asked about until it was reached, or in all
    curve: Tensor | None = None  # (queries,) mean loss


@dataclass(frozen=True)
class Goal:
    """For B images."""

    oracle: Oracle
    origin: Tensor  # (B,) the labels to get away from
    rate: float | None
    """The rate under which to stay; None: heatward is ignored."""

    def loss(self, images: Tensor, rows: Tensor) -> Tensor:
        """(n,) of versions (n, 3, H, W) of these rows; 0 where it is reached."""
        answers, origin = self.oracle.ask(images), self.origin[rows]
        log = answers.probability.log()
        other = log.scatter(1, origin[:, None], -math.inf).amax(1)
        margin = (log.gather(1, origin[:, None])[:, 0] - other).clamp_min(0)
        # a tie of the few probabilities that are named is no success
        margin = torch.where(answers.label == origin, margin.clamp_min(1e-6), torch.zeros_like(margin))
        return margin.double() + self._suspicion(answers)

    def reached(self, images: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool, by label and flag alone."""
        answers = self.oracle.ask(images)
        fools = answers.label != self.origin[rows]
        return fools if self.rate is None else fools & ~answers.flagged

    def _suspicion(self, answers: Answers) -> Tensor:
        if self.rate is None:
            return torch.zeros(len(answers.label), dtype=torch.float64)
        far = (math.log(self.rate) - answers.p_value.clamp_min(1e-12).log()).clamp_min(0)
        far = torch.where(answers.flagged, far.clamp_min(1e-6), torch.zeros_like(far))
        return torch.where(answers.p_value.isnan(), answers.flagged.double() * HIDDEN, far)


def column(values: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def within(images: Tensor, originals: Tensor, budget: Budget) -> Tensor:
    """Images brought into the budget around their originals, as pictures of 8 bits."""
    change = project(images, originals, budget) - originals
    if budget.norm == "L2":  # each value towards the original: rounding never lengthens the change
        change = (change * 255).trunc() / 255
    return to_8_bits(originals + change)


def project(images: Tensor, originals: Tensor, budget: Budget) -> Tensor:
    """The same without rounding."""
    change = images - originals
    if budget.norm == "Linf":
        longest = math.floor(budget.eps * 255 + 1e-6) / 255  # rounding must not leave the budget
        return (originals + change.clamp(-longest, longest)).clamp(0, 1)
    shrink = (budget.eps / change.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1)
    return (originals + column(shrink) * change).clamp(0, 1)

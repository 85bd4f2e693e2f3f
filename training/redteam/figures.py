"""Finished parts in, lines of figures out: who fools the classifier, who is not flagged, what it cost.

What an attack that looks for the least change found counts under a budget where it lies within it; elsewhere the image
is as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.redteam.parts import Judged, Part, Piece, distance
from training.redteam.result import Line
from training.redteam.settings import ALL
from training.redteam.statistics import cost, share_of
from training.redteam.targets import Targets
from training.redteam.values import Norm

__all__ = ["Seen", "flagged", "line_of", "line_of_all", "seen_under"]

ROUNDING = 1e-4


@dataclass(frozen=True)
class Seen:
    """N images as they count under one budget."""

    truth: Tensor  # (N,)
    judged: Judged
    size: Tensor  # (N,) of the change

    @property
    def fooled(self) -> Tensor:
        """(N,) bool."""
        return self.judged.label != self.truth

    def success(self, rate: float) -> Tensor:
        """(N,) bool: wrong and not flagged."""
        return self.fooled & ~flagged(self.judged, rate)

    def recovered(self, rate: float) -> Tensor:
        """(N,) bool: the label to go on with is right."""
        label = torch.where(flagged(self.judged, rate), self.judged.corrected, self.judged.label)
        return label == self.truth


def flagged(judged: Judged, rate: float) -> Tensor:
    """(N,) bool."""
    return judged.p_value <= rate


def seen_under(part: Part, targets: Targets, clean: Judged, norm: Norm, eps: float) -> Seen:
    """What counts under a budget."""
    size = distance(part.images, targets.images, norm)
    inside = size <= eps + ROUNDING

    def chosen(attacked: Tensor, before: Tensor) -> Tensor:
        return torch.where(inside, attacked, before)

    judged = Judged(
        chosen(part.judged.label, clean.label),
        chosen(part.judged.p_value, clean.p_value),
        chosen(part.judged.corrected, clean.corrected),
    )
    return Seen(targets.truth, judged, torch.where(inside, size, torch.zeros_like(size)))


def line_of(piece: Piece, part: Part, seen: Seen, eps: float, rates: Sequence[float], rate: float) -> Line:
    """The figures of one method."""
    budget = piece.budget
    aimed = seen.fooled if piece.row == 0 else seen.success(rate)  # whoever ignores heatward wants the label alone
    spent = torch.where(aimed, part.spent, torch.full_like(part.spent, budget.steps * budget.restarts))
    each_s = torch.full((len(part.spent),), part.cpu_s / len(part.spent), dtype=torch.float64)
    return Line(
        row=piece.row,
        method=piece.method,
        norm=budget.norm,
        eps=eps,
        steps=budget.steps,
        restarts=budget.restarts,
        images=len(part.spent),
        fooled=share_of(seen.fooled),
        success={each: share_of(seen.success(each)) for each in rates},
        robust={each: share_of(~seen.success(each)) for each in rates},
        recovered={each: share_of(seen.recovered(each)) for each in rates},
        queries=cost(spent, aimed),
        cpu_s=cost(each_s, aimed),
        distance=float(seen.size[aimed].median()) if aimed.any() else None,
        curve=tuple(value for value in part.curve if math.isfinite(value)),
    )


def line_of_all(row: int, norm: Norm, eps: float, every: Sequence[Seen], rates: Sequence[float]) -> Line:
    """The figures of a row: each image by whichever method succeeds."""

    def any_of(columns: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(columns)).any(0)

    success = {rate: any_of([seen.success(rate) for seen in every]) for rate in rates}
    return Line(
        row=row,
        method=ALL,
        norm=norm,
        eps=eps,
        steps=0,
        restarts=0,
        images=len(every[0].truth),
        fooled=share_of(any_of([seen.fooled for seen in every])),
        success={rate: share_of(success[rate]) for rate in rates},
        robust={rate: share_of(~success[rate]) for rate in rates},
        recovered={rate: share_of(~any_of([~seen.recovered(rate) for seen in every])) for rate in rates},
    )

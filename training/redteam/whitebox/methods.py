"""Which way to step: what is known of some images in, a direction down out. One class a method.

Each begins as selective descent (Bryniarski et al. 2021, "Evading Adversarial Example Detection Defenses with
Orthogonal Projected Gradient Descent", section 4): while an image does not fool the classifier, down its margin, which
costs one pass; from then on down the detector's excess over its threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.redteam.whitebox.ball import Ball
from training.redteam.whitebox.target import Look, Target

__all__ = ["Features", "Lagrangian", "Minimum", "Orthogonal", "Selective", "unit"]

ENOUGH = 0.2
"""An image that fools and looks cleaner than this share of clean ones, and than twice the rate, needs no improving."""
RISES, FADES = 0.3, 0.9
MATCHING = 0.5
RADIUS_STEP = 0.08
GREY_LEVEL = 1 / 255
"""The least change of an 8-bit image."""
NEARER = 0.6 * GREY_LEVEL
"""How much nearer than what was found the search goes on: less, and rounding leads back to it."""
SLACK = 1e-6
STEEPEST, BISECTIONS = 8.0, 20
TINY = 1e-12


class Selective:
    """Down the margin; where the image fools, down the excess.

    Args:
        target: What is attacked.
        ball: Around all B originals.
        seed: Of whatever is drawn.
    """

    def __init__(self, target: Target, ball: Ball, seed: int) -> None:
        self.target, self.ball, self.seed = target, ball, seed

    def begin(self, restart: int) -> None:
        """Before the first step of a restart, counted from 0."""

    def asks(self, rows: Tensor, look: Look, done: float) -> Tensor:
        """(n,) whether the detector is asked about the images of these rows; `done` is the share of steps behind."""
        return look.fools

    def direction(self, rows: Tensor, images: Tensor, look: Look, done: float) -> Tensor:
        """(n, 3, H, W) which way is up: steps go the other way."""
        return torch.where(_wide(look.fools), look.excess_gradient, look.margin_gradient)

    def rank(self, rows: Tensor, images: Tensor, look: Look) -> Tensor:
        """(n,) lower is a better image; infinite where it does not fool."""
        return torch.where(look.fools, look.excess, torch.inf)

    def enough(self, rows: Tensor, images: Tensor, look: Look) -> Tensor:
        """(n,) whether nothing more is to be won."""
        return look.through & (look.p_value >= max(ENOUGH, 2 * self.target.rate))

    def loss(self, rows: Tensor, look: Look) -> Tensor:
        """(n,) in [0, 2): from 1 up where an image does not fool, from 0 up where it is flagged, 0 where through."""
        margin, excess = look.margin.double().clamp_min(0), look.excess.clamp_min(0)
        flagged = torch.where(excess.isfinite(), excess / (1 + excess), 1.0)
        return torch.where(look.fools, flagged, 1 + margin / (1 + margin))

    def radius(self, rows: Tensor) -> Tensor | None:
        """(n,) how far from the original images may be; None: as far as the budget allows."""
        return None


class Orthogonal(Selective):
    """Selective, but down the excess along the margin's contour, so that what fools goes on fooling.

    Of L∞, whose steps are signs, the margin's share is what makes the signs keep to the contour: the steepest such
    step is the sign of excess less a multiple of margin, the dual of a linear programme with one constraint.

    The paper's other half, down the margin along the excess's contour, would ask the detector about images that do not
    fool yet, at ten times the cost of a step; those go down the margin alone.
    """

    def direction(self, rows: Tensor, images: Tensor, look: Look, done: float) -> Tensor:
        normal, excess = unit(look.margin_gradient), unit(look.excess_gradient)
        along = (excess * normal).flatten(1).sum(1)
        if self.ball.budget.norm == "Linf":
            along = _along_signs(excess, normal)
        return torch.where(_wide(look.fools), excess - _wide(along) * normal, look.margin_gradient)


class Lagrangian(Selective):
    """Selective, but an image that fools goes down excess and margin together.

    The margin's weight is searched for each image: it grows where going down the excess made the image no longer fool,
    and fades while it fools. The search goes on through the restarts.
    """

    def __init__(self, target: Target, ball: Ball, seed: int) -> None:
        super().__init__(target, ball, seed)
        self.weight = torch.zeros(len(ball.centre), device=ball.centre.device)

    def direction(self, rows: Tensor, images: Tensor, look: Look, done: float) -> Tensor:
        self.weight[rows] = torch.where(look.fools, FADES * self.weight[rows], RISES + self.weight[rows])
        both = unit(look.excess_gradient) + _wide(self.weight[rows]) * unit(look.margin_gradient)
        return torch.where(_wide(look.fools), both, look.margin_gradient)


class Features(Selective):
    """Half of the way towards a clean image of another class in the classifier's layers, then selective.

    Sabour et al. 2016, "Adversarial Manipulation of Deep Representations". Each restart takes the next nearest clean
    image of the batch that is of another class; where all are of one class, the margin leads. Matching asks the
    classifier alone.
    """

    def __init__(self, target: Target, ball: Ball, seed: int) -> None:
        super().__init__(target, ball, seed)
        self.layers = target.twin.extractor.layers or target.classifier.depths()
        maps = self._maps(ball.centre)
        deep = maps[self.layers[-1]].flatten(1) if maps else ball.centre.flatten(1)
        distances = torch.cdist(deep, deep)
        same = target.labels[:, None] == target.labels[None]
        self.nearest = distances.masked_fill(same, torch.inf).argsort(1)
        self.others = (~same).sum(1)
        self.maps = maps
        self.restart = 0

    def begin(self, restart: int) -> None:
        self.restart = restart

    def asks(self, rows: Tensor, look: Look, done: float) -> Tensor:
        return look.fools & (done >= MATCHING or not self.maps)

    def direction(self, rows: Tensor, images: Tensor, look: Look, done: float) -> Tensor:
        if done >= MATCHING or not self.maps:
            return super().direction(rows, images, look, done)
        goals = self.nearest[rows, self.restart % self.others[rows].clamp_min(1)]
        leaf = images.clone().requires_grad_()
        with torch.enable_grad():
            _, maps = self.target.classifier.activations(leaf, self.layers)
            apart = torch.stack([_apart(maps[name], self.maps[name][goals]) for name in self.layers]).sum()
        (gradient,) = torch.autograd.grad(apart, leaf)
        return torch.where(_wide(self.others[rows] > 0), gradient, look.margin_gradient)

    @torch.no_grad()
    def _maps(self, images: Tensor) -> dict[str, Tensor]:
        return self.target.classifier.activations(images, self.layers)[1] if self.layers else {}


class Minimum(Selective):
    """The shortest way through: the radius shrinks while an image is through, and grows while it is not.

    As Pintor et al. 2021, "Fast Minimum-norm Adversarial Attacks", do for a classifier alone. The best image is the
    nearest that is through, not the least suspicious. A radius is a grey level or more, and never beyond what was
    found; so one walk within the widest budget tells who gets through under every smaller one.
    """

    def __init__(self, target: Target, ball: Ball, seed: int) -> None:
        super().__init__(target, ball, seed)
        self.most = torch.full((len(ball.centre),), ball.budget.eps, device=ball.centre.device)
        self.begin(0)

    def begin(self, restart: int) -> None:
        self.radii = self.most.clone()

    def direction(self, rows: Tensor, images: Tensor, look: Look, done: float) -> Tensor:
        change = RADIUS_STEP * (1 - done)
        scaled = self.radii[rows] * torch.where(look.through, 1 - change, 1 + change)
        nearer = self.ball[rows].distance(images) - NEARER
        self.most[rows] = torch.where(look.through, torch.minimum(self.most[rows], nearer), self.most[rows])
        self.radii[rows] = torch.minimum(scaled.clamp_min(GREY_LEVEL), self.most[rows])
        return super().direction(rows, images, look, done)

    def rank(self, rows: Tensor, images: Tensor, look: Look) -> Tensor:
        # those that are through, by distance, before all that are not
        nearer = self.ball[rows].distance(images).double() / self.ball.budget.eps - 2
        return torch.where(look.through, nearer, super().rank(rows, images, look).clamp_min(0))

    def enough(self, rows: Tensor, images: Tensor, look: Look) -> Tensor:
        return look.through & (self.ball[rows].distance(images) <= GREY_LEVEL + SLACK)

    def loss(self, rows: Tensor, look: Look) -> Tensor:
        """(n,) below 1 how far what was found is, as a share of the budget; from 1 up where nothing was found."""
        share = self.most[rows].double() / self.ball.budget.eps
        return torch.where(share < 1, share, 1 + super().loss(rows, look))

    def radius(self, rows: Tensor) -> Tensor | None:
        return self.radii[rows]


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def unit(gradient: Tensor) -> Tensor:
    """(n, 3, H, W) at length 1 each, L2."""
    return gradient / _wide(gradient.flatten(1).norm(dim=1).clamp_min(TINY))


def _along_signs(excess: Tensor, normal: Tensor) -> Tensor:
    """(n,) the multiple m for which sign(excess - m · normal) is orthogonal to the normal, by bisection."""
    low, high = (torch.full_like(excess[:, 0, 0, 0], side) for side in (-STEEPEST, STEEPEST))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rising = ((excess - _wide(middle) * normal).sign() * normal).flatten(1).sum(1) > 0
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return (low + high) / 2


def _apart(maps: Tensor, goal: Tensor) -> Tensor:
    """How far maps (n, D, h, w) are from their goals, by the goals' size, summed over images."""
    apart, size = (maps - goal).flatten(1).square().sum(1), goal.flatten(1).square().sum(1)
    return (apart / size.clamp_min(TINY)).sum()

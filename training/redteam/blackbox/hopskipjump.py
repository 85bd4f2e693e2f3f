"""HopSkipJump: images and a decision oracle in, the nearest images that reach the goal out.

Chen, Jordan & Wainwright 2020, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", algorithm 2: from an
image that reaches the goal, halve the way to the original until the boundary is met, estimate the boundary's direction
there from random probes (section III-B, with the baseline of III-C), step along it, and begin again. Images of a batch
go side by side. It looks for the least change: the budget says only how its size is measured, and how many questions
there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.redteam.blackbox.goal import Found, Goal, column
from training.redteam.oracles import to_8_bits
from training.redteam.values import Budget, Norm

__all__ = ["hop_skip_jump"]

STARTS = 20
"""Images tried as a beginning: others of the batch, then noise."""
HALVINGS = 8
PROBES = 100
"""Of the first step; the t-th has √t times as many. Fewer where there are few questions."""


def hop_skip_jump(goal: Goal, images: Tensor, budget: Budget, seed: int) -> Found:
    """Search."""
    search = _Search(goal, images, budget, torch.Generator().manual_seed(seed))
    search.begin()
    search.halve()
    turn = 1
    while search.left(need=HALVINGS + 2).any() and turn <= budget.steps:
        search.step(turn)
        search.halve()
        turn += 1
    return Found(search.nearest, search.reached, search.spent, torch.stack(search.curve))


class _Search:
    def __init__(self, goal: Goal, images: Tensor, budget: Budget, generator: torch.Generator) -> None:
        self.goal, self.images, self.budget, self.generator = goal, images, budget, generator
        self.best = images.clone()  # (B, 3, H, W), of those that are reached
        self.nearest = images.clone()  # of all that were
        self.reached = torch.zeros(len(images), dtype=torch.bool)
        self.spent = torch.zeros(len(images), dtype=torch.long)
        self.first = max(4, min(PROBES, budget.steps // 10))
        self.curve: list[Tensor] = []

    def left(self, need: int = 1) -> Tensor:
        """(B,) whether an image has begun, is not where it was, and has so many questions left."""
        moved = (self.best - self.images).flatten(1).abs().amax(1) > 1 / 255 + 1e-6
        return self.reached & moved & (self.spent + need <= self.budget.steps)

    def ask(self, tried: Tensor, rows: Tensor) -> Tensor:
        self.spent.index_add_(0, rows, torch.ones_like(rows))
        return self.goal.reached(to_8_bits(tried), rows)

    def begin(self) -> None:
        """An image for each that reaches the goal, far away as it may be."""
        for turn in range(min(STARTS, self.budget.steps)):
            rows = (~self.reached).nonzero()[:, 0]
            if not len(rows):
                return
            if turn + 1 < min(len(self.images), STARTS // 2):
                tried = self.images[(rows + turn + 1) % len(self.images)]
            else:
                tried = to_8_bits(torch.rand(len(rows), *self.images.shape[1:], generator=self.generator))
            there = self.ask(tried, rows)
            self.best[rows[there]] = self.nearest[rows[there]] = tried[there]
            self.reached[rows[there]] = True

    def halve(self) -> None:
        """Bring each as near as the boundary lets it."""
        rows = self.left(need=HALVINGS).nonzero()[:, 0]
        far = self.best[rows].clone()
        low, high = torch.zeros(len(rows)), torch.ones(len(rows))  # shares of the way; `high` reaches the goal
        for _ in range(HALVINGS if len(rows) else 0):
            middle = (low + high) / 2
            tried = to_8_bits(self.between(rows, far, middle))
            there = self.ask(tried, rows)
            self.best[rows[there]] = tried[there]
            high, low = torch.where(there, middle, high), torch.where(there, low, middle)
        nearer = self.size(self.best) < self.size(self.nearest)
        self.nearest[nearer] = self.best[nearer]
        self.curve.append(self.size(self.nearest)[self.reached].mean())

    def between(self, rows: Tensor, far: Tensor, share: Tensor) -> Tensor:
        original = self.images[rows]
        change = far - original
        if self.budget.norm == "L2":
            return original + column(share) * change
        longest = column(change.flatten(1).abs().amax(1) * share)  # L∞: cut what lies further
        return original + change.clamp(-longest, longest)

    def size(self, versions: Tensor) -> Tensor:
        """(B,) how far versions of all images are from them."""
        change = (versions - self.images).flatten(1)
        return change.abs().amax(1) if self.budget.norm == "Linf" else change.norm(dim=1)

    def step(self, turn: int) -> None:
        """Probe around each, and step along the direction that reaches the goal more often."""
        rows = self.left(need=HALVINGS + 2).nonzero()[:, 0]
        room = int((self.budget.steps - self.spent[rows]).min()) - HALVINGS - 1
        probes = max(1, min(int(self.first * turn**0.5), room))
        at, size = self.best[rows], self.size(self.best)[rows]
        noise = torch.randn(len(rows), probes, *at.shape[1:], generator=self.generator)
        noise = noise / noise.flatten(2).norm(dim=2).view(len(rows), probes, 1, 1, 1)
        # at least about a grey level in each value: what is smaller, rounding takes away
        reach = torch.maximum(size / 10, torch.full_like(size, 1 / 255 * at[0].numel() ** 0.5))
        tried = to_8_bits((at[:, None] + reach.view(-1, 1, 1, 1, 1) * noise).flatten(0, 1))
        signs = self.ask(tried, rows.repeat_interleave(probes)).view(len(rows), probes).float() * 2 - 1
        weights = torch.where(signs.std(1, correction=0)[:, None] > 0, signs - signs.mean(1, keepdim=True), signs)
        direction = _along((weights.view(len(rows), probes, 1, 1, 1) * noise).sum(1), self.budget.norm)
        length, waiting = size / turn**0.5, torch.ones(len(rows), dtype=torch.bool)
        while waiting.any():
            waiting &= (self.spent[rows] < self.budget.steps) & (length > 0.5 / 255)
            now = waiting.nonzero()[:, 0]
            if not len(now):
                return
            tried = to_8_bits(at[now] + column(length[now]) * direction[now])
            there = self.ask(tried, rows[now])
            self.best[rows[now[there]]] = tried[there]
            waiting[now[there]] = False
            length = torch.where(waiting, length / 2, length)


def _along(direction: Tensor, norm: Norm) -> Tensor:
    if norm == "Linf":
        return direction.sign()
    return direction / column(direction.flatten(1).norm(dim=1).clamp_min(1e-12))

"""One white-box attack, with all its restarts: **originals in, the best images out**, as the real detector judges them.

    start ─▶ 8 bits ─▶ margin of all, excess of some (target.py) ─▶ the best so far
               ▲                                                      │
               └─ project (ball.py) ◀─ step ◀─ direction (methods.py) ◀┘   ─▶ after all restarts, the real detector

Images step together; one that is through and looks clean enough takes no further step. Steps shrink along half a cosine
and have momentum (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum"), which carries an image over the rim
between fooling and not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from detector.detector import Detector
from detector.images.batch import check_images, check_range
from training.progress import Advance
from training.redteam.values import Budget, Outcome
from training.redteam.whitebox.ball import Ball
from training.redteam.whitebox.methods import Selective, unit
from training.redteam.whitebox.starts import start
from training.redteam.whitebox.target import Look, Target

__all__ = ["descend"]

FIRST_STEP, LAST_STEP = 0.25, 0.02  # shares of the radius
MOMENTUM = 0.75


def descend(
    method: Callable[[Target, Ball, int], Selective],
    detector: Detector,
    images: Tensor,
    rate: float,
    budget: Budget,
    seed: int,
    advance: Advance | None = None,
) -> Outcome:
    """Attack B images.

    Args:
        method: Which way it steps.
        detector: What is attacked; it stays as it is.
        images: (B, 3, H, W) in [0, 1], multiples of 1/255, of the classifier's size.
        rate: The false-positive rate that the attacker wants to stay under.
        budget: What the attacker may spend.
        seed: Decides everything random.
        advance: Told how many steps of all restarts together are done.

    Raises:
        ConfigError: "white box refused": classifier or witness gives no gradients.
        ImageShapeError: The images are no such batch.
    """
    began = time.process_time()
    check_images(images, size=detector.classifier.input_size)
    check_range(images)
    originals = images.detach().to(detector.classifier.device)
    target, ball = Target(detector, originals, rate), Ball(originals, budget)
    walk = _Walk(target, ball, method(target, ball, seed))
    curve = torch.zeros(budget.steps)
    for restart in range(budget.restarts):
        losses = walk.run(restart, seed, advance or (lambda count: None))
        curve = losses if restart == 0 else curve
    best, fools, p_value = _judged(detector, originals, walk.best, target.labels)
    return Outcome(best.to(images.device), fools, p_value, walk.spent_at, time.process_time() - began, curve)


class _Walk:
    """The images on their way, and the best of each."""

    def __init__(self, target: Target, ball: Ball, method: Selective) -> None:
        count, device = len(ball.centre), ball.centre.device
        self.target, self.ball, self.method = target, ball, method
        self.best = ball.centre.clone()
        self.rank = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.going = torch.ones(count, dtype=torch.bool, device=device)
        self.spent, self.spent_at = (torch.zeros(count, dtype=torch.long) for _ in range(2))

    def run(self, restart: int, seed: int, advance: Advance) -> Tensor:
        """One restart; (steps,) the mean loss before each step."""
        steps = self.ball.budget.steps
        rows = self.going.nonzero()[:, 0]
        losses = torch.zeros(steps)
        loss = torch.zeros(len(self.going), dtype=torch.float64, device=rows.device)
        if not len(rows):
            advance(steps)
            return losses
        self.method.begin(restart)
        begun, asked = start(self.target, self.ball[rows], rows, restart, seed)
        self.spent[rows.cpu()] += asked
        images = self.ball.centre.clone()
        images[rows] = self.ball[rows].project(begun, self.method.radius(rows))
        velocity = torch.zeros_like(images)
        for step in range(steps):
            rows = self.going.nonzero()[:, 0]
            if not len(rows):
                advance(steps - step)
                break
            sent = self.ball[rows].sent(images[rows])
            done = step / steps
            look = self.target.margins(sent, rows)
            self.target.ask(look, sent, self.method.asks(rows, look, done))
            self._remember(rows, sent, look)
            loss[rows] = self.method.loss(rows, look)
            losses[step] = loss.mean()
            direction = self.method.direction(rows, sent, look, done)
            velocity[rows] = MOMENTUM * velocity[rows] + unit(direction)
            radius = self.method.radius(rows)
            moved = self.ball[rows].step(images[rows], -velocity[rows], _size(done), radius)
            images[rows] = self.ball[rows].project(moved, radius)
            loss[~self.going] = 0
            advance(1)
        return losses

    def _remember(self, rows: Tensor, sent: Tensor, look: Look) -> None:
        self.spent[rows.cpu()] += 1
        rank = self.method.rank(rows, sent, look)
        better = rank < self.rank[rows]
        at = rows[better]
        self.best[at], self.rank[at] = sent[better], rank[better]
        self.spent_at[at.cpu()] = self.spent[at.cpu()]
        self.going[rows[self.method.enough(rows, sent, look)]] = False


def _size(done: float) -> float:
    """Length of a step, as a share of the radius."""
    return LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 + math.cos(math.pi * done)) / 2


def _judged(detector: Detector, originals: Tensor, best: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W), whether they fool (B,) and their p-values (B,), by the real detector."""
    verdicts = detector.detect(best)
    fools = torch.tensor([verdict.label for verdict in verdicts], dtype=torch.long) != labels.cpu()
    kept = torch.where(fools.to(best.device).view(-1, 1, 1, 1), best, originals)
    p_value = torch.tensor([verdict.p_value for verdict in verdicts], dtype=torch.float64)
    return kept, fools, p_value

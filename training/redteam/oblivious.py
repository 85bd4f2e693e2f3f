"""Attackers who know the classifier and nothing of heatward: images and a budget in, an `Outcome` out.

PGD on the margin (Madry et al. 2018), the minimum-norm attack CW of torchattacks (Carlini & Wagner 2017), and the
attacks that only ask, on a classifier without heatward. They are row 0, and what every other row is set against.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from detector.classifier import Classifier
from training.attacks.attacks import attack_images
from training.config import AttackSpec
from training.redteam.blackbox import BlackBox, Goal
from training.redteam.blackbox.goal import column, project, within
from training.redteam.oracles import ClassifierOracle, Oracle
from training.redteam.values import Budget, Outcome

__all__ = ["asking", "cw", "pgd"]

CW_RATE = 0.01


def pgd(classifier: Classifier, images: Tensor, budget: Budget, seed: int, *, keep_last: bool = False) -> Outcome:
    """Steps along the sign (L2: the direction) of the margin's gradient, from a random start.

    Every image takes all steps, and the last that fools stays; the steps until the first one are counted. Where none
    fools, the original comes back, or with `keep_last` the last step.
    """
    started = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    device, origin = classifier.device, ClassifierOracle(classifier).ask(images).label
    best, fools = images.clone(), torch.zeros(len(images), dtype=torch.bool)
    spent = torch.full((len(images),), budget.steps * budget.restarts)
    curve: list[Tensor] = []
    now = images
    for restart in range(budget.restarts):
        free = images + budget.eps * (2 * torch.rand(images.shape, generator=generator) - 1)
        for step in range(budget.steps):
            free = project(free, images, budget)
            now = within(free, images, budget)  # what an attacker can send
            at = now.to(device).requires_grad_()
            with torch.enable_grad():
                margin = _margin(classifier(at), origin.to(device))
                (gradient,) = torch.autograd.grad(margin.sum(), at)
            margin, gradient = margin.detach().cpu(), gradient.cpu()
            there = margin < 0
            best[there] = now[there]
            spent[there & ~fools] = restart * budget.steps + step + 1
            fools |= there
            if not restart:
                curve.append(margin.mean())
            size = budget.eps / 2 * (1 - step / budget.steps)  # large steps first
            free = free - size * _direction(gradient, budget)
    if keep_last:
        best[~fools] = now[~fools]
    return Outcome(best, fools, _unknown(images), spent, time.process_time() - started, torch.stack(curve))


def cw(classifier: Classifier, images: Tensor, budget: Budget, seed: int) -> Outcome:
    """The least change in L2 that fools; `budget` says how many steps."""
    started = time.process_time()
    origin = ClassifierOracle(classifier).ask(images).label
    parameters = {"c": 1, "kappa": 0, "steps": budget.steps, "lr": CW_RATE}
    spec = AttackSpec(name="CW", label="cw", family="minimum-norm", parameters=parameters)
    pixels = images.mul(255).round().to(torch.uint8)
    attacked = attack_images(spec, classifier, pixels, origin, seed=seed, batch_size=len(images)).float() / 255
    fools = ClassifierOracle(classifier).ask(attacked).label != origin
    spent = torch.full((len(images),), budget.steps)
    return Outcome(attacked, fools, _unknown(images), spent, time.process_time() - started)


def asking(
    attack: BlackBox, oracle: Oracle, images: Tensor, origin: Tensor, rate: float | None, budget: Budget, seed: int
) -> Outcome:
    """An attack that only asks, as an outcome."""
    started = time.process_time()
    found = attack(Goal(oracle, origin, rate), images, budget, seed)
    took_s = time.process_time() - started
    return Outcome(found.images, found.reached, _unknown(images), found.spent, took_s, found.curve)


def _margin(logits: Tensor, origin: Tensor) -> Tensor:
    other = logits.scatter(1, origin[:, None], -torch.inf).amax(1)
    return logits.gather(1, origin[:, None])[:, 0] - other


def _direction(gradient: Tensor, budget: Budget) -> Tensor:
    if budget.norm == "Linf":
        return gradient.sign()
    return gradient / column(gradient.flatten(1).norm(dim=1).clamp_min(1e-12))


def _unknown(images: Tensor) -> Tensor:
    return torch.full((len(images),), torch.nan, dtype=torch.float64)

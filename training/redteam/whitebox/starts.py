"""Where each restart begins: originals in, images within the budget out.

The image itself first; then what fools classifier and witness, CW's nearest image over the boundary, Square's, which
saw no gradient, and noise. Each gives descent another valley to go down.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detector.classifier import Classifier
from training.attacks.attacks import attack_images
from training.attacks.transfer import stand_in
from training.config import AttackSpec
from training.redteam.whitebox.ball import Ball
from training.redteam.whitebox.target import Target, margin_of
from training.shards import derived_seed

__all__ = ["STARTS", "start"]

JOINT_STEPS = 20
JOINT_SIZE = 0.15
CW_STEPS = 30
SQUARE_QUERIES = 100


def start(target: Target, ball: Ball, rows: Tensor, restart: int, seed: int) -> tuple[Tensor, int]:
    """Where a restart begins.

    Args:
        target: What is attacked.
        ball: Around the originals of these rows.
        rows: (n,) of the target.
        restart: Counted from 0.
        seed: Of whatever is drawn.

    Returns:
        (n, 3, H, W) within the ball, and how many images were asked about for each.
    """
    kinds = list(STARTS.values())
    kind = kinds[restart] if restart < len(kinds) else _noise
    images, asked = kind(target, ball, rows, derived_seed(seed, restart))
    return ball.project(images), asked


def _itself(target: Target, ball: Ball, rows: Tensor, seed: int) -> tuple[Tensor, int]:
    return ball.centre.clone(), 0


def _noise(target: Target, ball: Ball, rows: Tensor, seed: int) -> tuple[Tensor, int]:
    return ball.draw(torch.Generator().manual_seed(seed)), 0


def _joint(target: Target, ball: Ball, rows: Tensor, seed: int) -> tuple[Tensor, int]:
    """Down the margins of classifier and witness together, from noise."""
    witness = target.twin.extractor.witness
    nets: list[Classifier] = [target.classifier]
    if witness is not None:
        nets.append(stand_in(target.classifier, witness))
    images, labels = ball.draw(torch.Generator().manual_seed(seed)), target.labels[rows]
    for _ in range(JOINT_STEPS):
        leaf = images.clone().requires_grad_()
        with torch.enable_grad():
            # of probabilities' logarithms, so that nets of other scales count alike
            margins = [margin_of(net(leaf).log_softmax(1), labels).clamp_min(-1) for net in nets]
            loss = torch.stack(margins).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        images = ball.project(ball.step(images, -gradient, JOINT_SIZE))
    return images, JOINT_STEPS


def _carlini_wagner(target: Target, ball: Ball, rows: Tensor, seed: int) -> tuple[Tensor, int]:
    spec = AttackSpec(name="CW", label="cw", family="minimum-norm", parameters={"c": 1, "steps": CW_STEPS})
    return _by_library(spec, target, ball, rows, seed), CW_STEPS


def _square(target: Target, ball: Ball, rows: Tensor, seed: int) -> tuple[Tensor, int]:
    parameters = {"norm": ball.budget.norm, "eps": ball.budget.eps, "n_queries": SQUARE_QUERIES}
    spec = AttackSpec(name="Square", label="square", family="score-based", parameters=parameters)
    return _by_library(spec, target, ball, rows, seed), SQUARE_QUERIES


def _by_library(spec: AttackSpec, target: Target, ball: Ball, rows: Tensor, seed: int) -> Tensor:
    pixels = ball.centre.mul(255).round().to(torch.uint8).cpu()
    with torch.random.fork_rng():
        attacked = attack_images(spec, target.classifier, pixels, target.labels[rows].cpu(), seed=seed, batch_size=256)
    return attacked.to(ball.centre) / 255


STARTS: dict[str, Callable[[Target, Ball, Tensor, int], tuple[Tensor, int]]] = {
    "itself": _itself,
    "joint": _joint,
    "cw": _carlini_wagner,
    "square": _square,
    "noise": _noise,
}
"""In the order of the restarts; what follows is noise."""

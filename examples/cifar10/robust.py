r"""Train an adversarially robust witness of the CIFAR-10 classifier: ImageFolder in, one safetensors file out.

    python -m examples.cifar10.robust --data data --witness-of work/cifar10_net.safetensors \
        --out work/cifar10_robust.safetensors

Every batch is attacked before it is learned. By default in one step from a random start (fast adversarial training,
Wong et al. 2020, "Fast is better than free"), or with `--trades`, where the answers to the clean and to the attacked
image are drawn together (Zhang et al. 2019, equation 5). The targets are the classifier's answers to the clean images
(Goldblum et al. 2020, "Adversarially robust distillation"), or the labels where no classifier is named. One-step
training may collapse: the net then withstands that one step and nothing else (catastrophic overfitting). After each
epoch, PGD on held-out images watches for it. All else is the loop of `examples.cifar10.classifier`.
A witness that is trained already needs few epochs (`--begin-with`; Jeddi et al. 2020, "A simple fine-tuning is all you
need").
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CIFAR10_MEAN, CIFAR10_STD, CifarNet
from detector.errors import ConfigError
from detector.malloc import keep_freed_memory
from examples.cifar10.classifier import (
    TUNED,
    Recipe,
    accuracy,
    answers,
    load_folder,
    load_net,
    normalise,
    save_net,
    train,
)
from examples.commands import check_out, count, positive, run, whole

__all__ = ["Overfitting", "adversarial_loss", "climb", "main", "robust_accuracy", "trades_loss"]

WIDTHS = (32, 96, 128)
REACH = 1.25  # all steps together, of epsilon (Wong et al. 2020, section 4.2)
WATCHED, WATCH_STEPS = 500, 10
COLLAPSE = 0.5  # of the best robust accuracy so far

_mean, _std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR10_MEAN, CIFAR10_STD))
BLACK, WHITE = -_mean / _std, (1 - _mean) / _std  # the range of normalised pixels


def climb(
    net: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor], *, eps: float, steps: int, alpha: float
) -> Tensor:
    """Projected gradient ascent from a random start in the L∞ ball (Madry et al. 2018).

    Args:
        net: Taken in its evaluation mode, and left in the mode it was in.
        x: (B, 3, H, W), normalised.
        objective: Logits (B, K) → what shall grow, a scalar.
        eps: Radius, in [0, 1] units of pixels.
        steps: Of the ascent.
        alpha: Size of a step, in the units of `eps`.

    Returns:
        Attacked images, normalised, within the range of pixels.
    """
    training = net.training
    net.eval()
    radius, step = eps / _std, alpha / _std
    least, most = torch.maximum(x - radius, BLACK), torch.minimum(x + radius, WHITE)
    attacked = x + (2 * torch.rand_like(x) - 1) * radius
    for _ in range(steps):
        attacked = attacked.clamp(least, most).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training):
            logits = net(attacked)
        (gradient,) = torch.autograd.grad(objective(logits.float()), attacked)
        attacked = attacked.detach() + step * gradient.sign()
    net.train(training)
    return attacked.clamp(least, most).detach()


def adversarial_loss(net: CifarNet, x: Tensor, targets: Tensor, *, eps: float, steps: int) -> Tensor:
    """Cross-entropy of images attacked in `steps` steps; one is fast adversarial training."""

    def wrong(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, reduction="sum")

    attacked = climb(net, x, wrong, eps=eps, steps=steps, alpha=REACH * eps / steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(attacked)
    return functional.cross_entropy(logits.float(), targets)


def trades_loss(net: CifarNet, x: Tensor, targets: Tensor, *, eps: float, steps: int, beta: float) -> Tensor:
    """Cross-entropy of clean images, and `beta` times how far an attack moves the net's own answers."""
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        own = net(x).float().softmax(1)
    net.train()

    def moved(logits: Tensor) -> Tensor:
        return functional.kl_div(logits.log_softmax(1), own, reduction="sum")

    attacked = climb(net, x, moved, eps=eps, steps=steps, alpha=REACH * eps / steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clean, moved_to = net(x), net(attacked)
    apart = functional.kl_div(
        moved_to.float().log_softmax(1), clean.float().log_softmax(1), reduction="batchmean", log_target=True
    )
    return functional.cross_entropy(clean.float(), targets) + beta * apart


def robust_accuracy(net: nn.Module, images: Tensor, labels: Tensor, *, eps: float, steps: int) -> float:
    """Accuracy under PGD of `steps` steps, from one random start; images (N, 3, 32, 32) uint8."""
    training = net.training
    net.eval()
    right = 0
    for part, truth in zip(torch.split(images, 250), torch.split(labels, 250), strict=True):

        def wrong(logits: Tensor, truth: Tensor = truth) -> Tensor:
            return functional.cross_entropy(logits, truth, reduction="sum")

        attacked = climb(net, normalise(part), wrong, eps=eps, steps=steps, alpha=2.5 * eps / steps)
        with torch.no_grad():
            right += int((net(attacked).argmax(1) == truth).sum())
    net.train(training)
    return right / len(labels)


@dataclass
class Overfitting:
    """Watches held-out images after each epoch, and stops a training that has collapsed."""

    images: Tensor  # (N, 3, 32, 32) uint8
    labels: Tensor
    eps: float
    best: float = field(default=0.0, init=False)

    def __call__(self, net: nn.Module) -> str:
        """Say the accuracy under PGD.

        Raises:
            ConfigError: It fell below half of the best so far.
        """
        robust = robust_accuracy(net, self.images, self.labels, eps=self.eps, steps=WATCH_STEPS)
        if robust < COLLAPSE * self.best:
            raise ConfigError(
                f"catastrophic overfitting: accuracy under PGD-{WATCH_STEPS} fell from {self.best:.3f} to "
                f"{robust:.3f}; use a smaller --eps, more --steps, or --trades"
            )
        self.best = max(self.best, robust)
        return f"PGD-{WATCH_STEPS} {robust:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/ and test/ ImageFolders")
    parser.add_argument("--out", type=Path, default=Path("work/cifar10_robust.safetensors"))
    parser.add_argument("--held-out", type=count, default=600, help="images of each class kept for the detector")
    parser.add_argument("--witness-of", type=Path, help="weights of the classifier whose answers are the targets")
    parser.add_argument("--widths", type=count, nargs=3, default=WIDTHS, help="channels of the blocks (%(default)s)")
    parser.add_argument("--begin-with", type=Path, help="weights of a net of these widths: trained on, at lower rates")
    parser.add_argument("--eps", type=positive, default=4, help="radius of the attacks, in 255ths (%(default)s)")
    parser.add_argument("--steps", type=count, default=1, help="of each attack (%(default)s)")
    parser.add_argument("--trades", type=positive, metavar="BETA", help="TRADES with this weight; 2 or 3 --steps serve")
    parser.add_argument("--small-epochs", type=whole, default=8, help="epochs at 24 px (%(default)s)")
    parser.add_argument("--full-epochs", type=whole, default=12, help="epochs at 32 px (%(default)s)")
    parser.add_argument("--batch", type=count, default=500)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args(arguments)
    check_out(given.out)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    test = load_folder(given.data / "test")
    images, labels = load_folder(given.data / "train", last=-given.held_out)
    held_out = load_folder(given.data / "train", first=-given.held_out)
    targets = labels if given.witness_of is None else answers(load_net(given.witness_of), images)
    eps = given.eps / 255

    def loss(net: CifarNet, x: Tensor, wanted: Tensor) -> Tensor:
        if given.trades is None:
            return adversarial_loss(net, x, wanted, eps=eps, steps=given.steps)
        return trades_loss(net, x, wanted, eps=eps, steps=given.steps, beta=given.trades)

    some = torch.randperm(len(held_out[0]))[:WATCHED]
    watch = Overfitting(held_out[0][some], held_out[1][some], eps)
    first, second, third = given.widths
    widths = (first, second, third)
    begin = None if given.begin_with is None else load_net(given.begin_with, widths)
    rate = 1.0 if begin is None else TUNED
    recipe = Recipe(widths, given.small_epochs, given.full_epochs, given.batch, rate=rate)
    net = train(images, targets, recipe, held_out, begin=begin, loss=loss, watch=watch)
    save_net(net, given.out)
    print(f"held-out accuracy {accuracy(net, *held_out):.4f}, test accuracy {accuracy(net, *test):.4f}")


if __name__ == "__main__":
    run(main)

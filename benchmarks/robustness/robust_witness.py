r"""What a second classifier withstands, when whoever attacks knows both: images in, shares that fool both out.

    python -m benchmarks.robustness.robust_witness --data data --witness work/cifar10_robust.safetensors
    python -m benchmarks.robustness.robust_witness --data data --witness work/cifar10_witness.safetensors \
        --widths 32 96 96

Each rule of `benchmarks/robustness/witness_rules.py` gets its threshold from held-out photographs (of `data/train`, the
last of each class) and is attacked by joint PGD on test photographs: the gradient of a hinge on the classifier's margin
and that of the rule, each at length one, with momentum (Dong et al. 2018), on pixels of 8 bits. Restart r aims at the
wrong class that the witness holds for the r-th likeliest. An image is done as soon as any step fools the classifier
unflagged. The printed shares are of test images that the classifier knows; false alarms are of all clean test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.attribution.metrics import wilson
from benchmarks.robustness.witness_rules import RULES, Answers, Lacks, margin, predicted
from detector.architectures import CifarNet
from detector.malloc import keep_freed_memory
from examples.cifar10.classifier import CLASSES, load_folder, load_net, normalise
from examples.cifar10.robust import robust_accuracy
from examples.commands import count, rate, run

__all__ = ["Net", "answers_to", "fool_both", "main"]

Net = Callable[[Tensor], Tensor]
"""Pixels (B, 3, H, W) in [0, 1] → logits (B, K)."""

BATCH = 50
MOMENTUM = 0.75
STEPS = ((1 / 3, 0.5), (2 / 3, 0.25), (1.0, 0.1))  # until this part of the steps, so large a step (of epsilon)
UNSURE = 0.1  # the attack asks for the margin that this part of clean images stays below


def answers_to(classifier: Net, witness: Net, images: Tensor) -> Answers:
    """Both nets' logits of pixels (B, 3, H, W) in [0, 1]."""
    return Answers(classifier(images), witness(images), witness(images.flip(3)))


def eight_bits(images: Tensor) -> Tensor:
    """Round to multiples of 1/255; the gradient passes as if nothing were rounded (Athalye et al. 2018, BPDA)."""
    return images + ((images * 255).round() / 255 - images).detach()


def direction(gradient: Tensor) -> Tensor:
    return gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def fool_both(
    classifier: Net,
    witness: Net,
    images: Tensor,
    labels: Tensor,
    lacks: Lacks,
    *,
    eps: float,
    steps: int,
    restarts: int,
    sure: float = 0.0,
) -> Tensor:
    """Joint PGD on a classifier and a rule.

    Args:
        classifier: The net whose prediction shall change.
        witness: The net that the rule asks.
        images: (B, 3, H, W), multiples of 1/255.
        labels: (B,), what the classifier says of them.
        lacks: The rule.
        eps: L∞ radius; a multiple of 1/255, so that rounding keeps it.
        steps: Of each restart.
        restarts: Wrong classes to try.
        sure: The classifier's margin that the attack asks for.

    Returns:
        (B,) bool: some image in the ball fools the classifier and is let through.
    """
    with torch.no_grad():
        likely = witness(images).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)
    found = torch.zeros(len(images), dtype=torch.bool)
    for restart in range(restarts):
        for part in torch.split((~found).nonzero()[:, 0], BATCH):
            found[part] = one_restart(
                classifier, witness, images[part], labels[part], likely[part, restart], lacks, eps, steps, sure
            )
    return found


def one_restart(
    classifier: Net,
    witness: Net,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    lacks: Lacks,
    eps: float,
    steps: int,
    sure: float,
) -> Tensor:
    found = torch.zeros(len(images), dtype=torch.bool)
    change = (2 * torch.rand_like(images) - 1) * eps
    momentum = torch.zeros_like(images)
    for step in range(steps + 1):
        live = (~found).nonzero()[:, 0]
        if not len(live):
            break
        pixels = eight_bits((images[live] + change[live]).clamp(0, 1)).detach().requires_grad_()
        answers = answers_to(classifier, witness, pixels)
        fooled = predicted(answers)
        found[live] = ((fooled != labels[live]) & (lacks(answers, fooled) <= 0)).detach()
        if step == steps:
            break
        unsure = functional.relu(sure - margin(answers.classifier, targets[live]))
        flagged = functional.relu(lacks(answers, targets[live]))
        (first,) = torch.autograd.grad(unsure.sum(), pixels, retain_graph=True)
        (second,) = torch.autograd.grad(flagged.sum(), pixels)
        momentum[live] = MOMENTUM * momentum[live] + direction(first) + direction(second)
        size = eps * next(size for until, size in STEPS if step < until * steps)
        change[live] = (change[live] - size * momentum[live].sign()).clamp(-eps, eps)
    return found


@torch.no_grad()
def in_batches(classifier: Net, witness: Net, images: Tensor) -> Answers:
    parts = [answers_to(classifier, witness, part) for part in torch.split(images, 250)]
    return Answers(*(torch.cat([getattr(p, name) for p in parts]) for name in Answers.__dataclass_fields__))


def frozen(weights: Path, widths: Sequence[int]) -> CifarNet:
    first, second, third = widths
    net = load_net(weights, (first, second, third)).requires_grad_(False)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def seeing(net: CifarNet) -> Net:
    """Give a net pixels in [0, 1]."""
    return lambda pixels: net(normalise(pixels * 255))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/ and test/ ImageFolders")
    parser.add_argument("--classifier", type=Path, default=Path("work/cifar10_net.safetensors"))
    parser.add_argument(
        "--classifier-widths", type=count, nargs=3, default=(64, 256, 256), help="its channels (%(default)s)"
    )
    parser.add_argument("--witness", type=Path, default=Path("work/cifar10_robust.safetensors"))
    parser.add_argument("--widths", type=count, nargs=3, default=(32, 96, 128), help="of the witness (%(default)s)")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="%(default)s")
    parser.add_argument("--eps", type=count, nargs="+", default=[2, 4, 8], help="in 255ths (%(default)s)")
    parser.add_argument("--rate", type=rate, default=0.05, help="of false alarms (%(default)s)")
    parser.add_argument("--images", type=count, default=200, help="attacked (%(default)s)")
    parser.add_argument("--clean", type=count, default=200, help="of each class, to calibrate with (%(default)s)")
    parser.add_argument("--test", type=count, default=100, help="of each class, to measure with (%(default)s)")
    parser.add_argument("--steps", type=count, default=60, help="of each restart (%(default)s)")
    parser.add_argument("--restarts", type=count, default=2, help="wrong classes to try (%(default)s)")
    parser.add_argument("--accuracy", action="store_true", help="also the witness's own accuracy under PGD-20")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.restarts >= CLASSES:
        parser.error(f"argument --restarts: {given.restarts} wrong classes to try, there are {CLASSES - 1}")
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    nets = [frozen(given.classifier, given.classifier_widths), frozen(given.witness, given.widths)]
    classifier, witness = (seeing(net) for net in nets)
    held_out, _ = load_folder(given.data / "train", first=-given.clean)
    images, labels = load_folder(given.data / "test", last=given.test)
    clean, test = (in_batches(classifier, witness, part.float() / 255) for part in (held_out, images))
    right = (predicted(test) == labels).nonzero()[:, 0]
    some = right[torch.randperm(len(right))[: given.images]]
    accuracies = [float((logits.argmax(1) == labels).float().mean()) for logits in (test.classifier, test.witness)]
    print("accuracy: classifier {:.3f}, witness {:.3f}".format(*accuracies), flush=True)
    if given.accuracy:
        for eps in given.eps:
            robust = robust_accuracy(nets[1], images, labels, eps=eps / 255, steps=20)
            print(f"witness under PGD-20 at {eps}/255: {robust:.3f}", flush=True)
    sure = float(margin(clean.classifier, predicted(clean)).quantile(UNSURE))
    for name in given.rules:
        lacks = RULES[name](clean, given.rate)
        alarms = float((lacks(test, predicted(test)) > 0).float().mean())
        print(f"{name}: clean flagged {alarms:.3f}", flush=True)
        for eps in given.eps:
            spent = {"eps": eps / 255, "steps": given.steps, "restarts": given.restarts, "sure": sure}
            found = fool_both(classifier, witness, images[some].float() / 255, labels[some], lacks, **spent)
            low, high = wilson(int(found.sum()), len(found))
            print(f"  {eps}/255: both fooled {float(found.float().mean()):.3f} [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    run(main)

"""Our batched DeepFool beside torchattacks' own, in one run: speed ratio, success rate, mean L2.

    python -m benchmarks.robustness.deepfool                          # embedded classifier and photographs
    python -m benchmarks.robustness.deepfool --images data/test --threads 2

torchattacks' DeepFool is timed on a frozen classifier (as our pipeline gives it) and on one whose parameters ask for
gradients (as a freshly built model does: each backward then computes those of the weights as well).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor

from benchmarks.clock import seconds
from detector.bundle import EMBEDDED, load_bundle
from detector.classifier import Classifier, load_classifier
from detector.errors import DataError
from detector.images import decode
from examples.commands import count, positive, run
from training.attacks.deepfool import DeepFool
from training.devices import device_named

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Result:
    seconds: float
    success: float
    l2: float


def read_images(folder: Path, wanted: int, classifier: Classifier) -> Tensor:
    """So many images, in turns from every class folder: (wanted, 3, H, W)."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        groups.setdefault(path.parent, []).append(path)
    in_turns = sorted((rank, path) for paths in groups.values() for rank, path in enumerate(paths))
    if len(in_turns) < wanted:
        raise DataError(f"{folder} holds {len(in_turns)} images, fewer than --count {wanted}")
    pixels = [classifier.prepare(decode(path.read_bytes())) for _, path in in_turns[:wanted]]
    return torch.stack(pixels).to(classifier.device)


def measure(attack: Any, classifier: Classifier, images: Tensor, labels: Tensor, repeats: int) -> Result:
    attack(images[:2], labels[:2])  # first use pays for set-up
    taken = min(seconds(lambda: attack(images, labels), images.device) for _ in range(repeats))
    adversarial = attack(images, labels).detach()
    with torch.no_grad():
        crossed = classifier(adversarial).argmax(1) != labels
    l2 = (adversarial - images).flatten(1).norm(dim=1)
    return Result(taken, float(crossed.float().mean()), float(l2.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=EMBEDDED.parent / "samples", help="folder of images")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--count", type=count, default=64, help="images")
    parser.add_argument("--steps", type=count, default=50)
    parser.add_argument("--overshoot", type=positive, default=0.02)
    parser.add_argument("--repeats", type=count, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--threads", type=count, default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    bundle = load_bundle(arguments.bundle)
    classifier = load_classifier(
        bundle.manifest.classifier, device=device_named(arguments.device), state_dict=bundle.classifier_weights
    )
    images = read_images(arguments.images, arguments.count, classifier)
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    module, settings = classifier.module, {"steps": arguments.steps, "overshoot": arguments.overshoot}
    ours = measure(DeepFool(module, **settings), classifier, images, labels, arguments.repeats)
    theirs = measure(torchattacks.DeepFool(module, **settings), classifier, images, labels, arguments.repeats)
    module.requires_grad_(True)
    unfrozen = measure(torchattacks.DeepFool(module, **settings), classifier, images, labels, arguments.repeats)
    module.requires_grad_(False)

    print(f"{len(images)} images, {classifier.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':34}{'seconds':>9}{'success':>9}{'mean L2':>9}{'ratio':>8}")
    for name, result in (
        ("ours, batched", ours),
        ("torchattacks, frozen parameters", theirs),
        ("torchattacks, parameters with grad", unfrozen),
    ):
        ratio = result.seconds / ours.seconds
        print(f"{name:34}{result.seconds:9.3f}{result.success:9.1%}{result.l2:9.4f}{ratio:7.1f}x")
    print(f"mean L2, ours against torchattacks': {ours.l2 / theirs.l2 - 1:+.2%}")


if __name__ == "__main__":
    run(main)

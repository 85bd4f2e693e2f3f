"""Which label to act on where an image is flagged: `recovered` (given an attack) or `corrected` (over all images)?

    python -m benchmarks.detection.recovered --images data/test --images-each 40

Photographs that training did not use (`<class>/<image>`) and attacks on them that changed the prediction flow in; out
comes how often each answer is right about attacks, and the accuracy of what a guarded pipeline answers on 80 % clean
and 20 % attacked traffic, an equal share of each attack, where flagged images get the one answer or the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from detector.bundle import EMBEDDED
from detector.detector import Detector, Verdict
from training.attacks import attack_images
from training.config import AttackSpec, ImagesConfig
from training.data.sources import open_source

RATES = (0.01, 0.05)
CLEAN_SHARE = 0.8
ATTACKS = [
    AttackSpec(name="PGD", label="pgd-8", family="a", parameters={"eps": "8/255", "alpha": "2/255", "steps": 10}),
    AttackSpec(
        name="PGD", label="pgd-2", family="b", parameters={"eps": "2/255", "alpha": {"of_eps": 0.25}, "steps": 10}
    ),
    AttackSpec(name="FGSM", label="fgsm-8", family="c", parameters={"eps": "8/255"}),
    AttackSpec(name="CW", label="cw", family="d", parameters={"c": 1, "steps": 40, "lr": 0.01}),
    AttackSpec(name="Square", label="square-8", family="e", parameters={"eps": "8/255", "n_queries": 300}),
]
ANSWERS = ("predicted", "recovered", "corrected")


def said(verdict: Verdict, answer: str) -> int:
    """The label that one of `ANSWERS` gives."""
    if answer == "predicted":
        return verdict.label
    return (verdict.recovered[0] if answer == "recovered" else verdict.corrected)[0]


def accuracy(verdicts: Sequence[Verdict], truths: Sequence[int], answer: str, rate: float) -> float:
    """Share of right labels, where images flagged at `rate` get `answer` and the others keep the prediction."""
    labels = [said(verdict, answer if verdict.p_value <= rate else "predicted") for verdict in verdicts]
    return sum(label == truth for label, truth in zip(labels, truths, strict=True)) / len(truths)


def read(folder: Path, each: int, detector: Detector) -> tuple[Tensor, Tensor]:
    """The first images of each class, (n, 3, H, W) uint8, and their classes (n,)."""
    source = open_source(str(folder), ImagesConfig(source=str(folder)), train=False)
    groups = [source.group(position) for position in range(len(source))]
    chosen = [i for i, group in enumerate(groups) if i - groups.index(group) < each]
    pixels = torch.stack([detector.classifier.prepare(source.pixels(i)).mul(255).round().byte() for i in chosen])
    names = detector.classifier.classes
    return pixels, torch.tensor([names.index(source.class_names[groups[i]]) for i in chosen])


def judged(detector: Detector, pixels: Tensor) -> list[Verdict]:
    return [verdict for part in pixels.split(64) for verdict in detector.detect(part / 255)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--images", type=Path, default=Path("data/test"))
    parser.add_argument("--images-each", type=int, default=40, help="images of each class")
    arguments = parser.parse_args()
    detector = Detector.from_bundle(arguments.bundle)
    pixels, truths = read(arguments.images, arguments.images_each, detector)
    clean = judged(detector, pixels)
    predicted = torch.tensor([verdict.label for verdict in clean])
    attacked: list[tuple[list[Verdict], list[int]]] = []
    print("| attack | successes | recovered is right | corrected is right |\n| --- | --: | --: | --: |")
    for spec in ATTACKS:
        changed = attack_images(spec, detector.classifier, pixels, predicted, seed=0, batch_size=64)
        labels = torch.cat([detector.classifier(part / 255) for part in changed.split(64)]).argmax(1)
        won = (labels != predicted) & (predicted == truths)
        verdicts = judged(detector, changed[won])
        attacked.append((verdicts, truths[won].tolist()))
        right = [sum(said(v, a) == t for v, t in zip(*attacked[-1], strict=True)) / len(verdicts) for a in ANSWERS[1:]]
        print(f"| {spec.label} | {len(verdicts)} | {right[0]:.1%} | {right[1]:.1%} |", flush=True)
    print(f"\n{len(clean)} clean images\n")
    print("| flagged at | predicted | recovered | corrected | clean: recovered | clean: corrected |")
    print("| --- | --: | --: | --: | --: | --: |")
    for rate in RATES:
        on_clean = [accuracy(clean, truths.tolist(), answer, rate) for answer in ANSWERS]
        on_attacked = [sum(accuracy(*each, answer, rate) for each in attacked) / len(attacked) for answer in ANSWERS]
        both = [CLEAN_SHARE * a + (1 - CLEAN_SHARE) * b for a, b in zip(on_clean, on_attacked, strict=True)]
        print(f"| {rate:.0%} | " + " | ".join(f"{value:.1%}" for value in (*both, *on_clean[1:])) + " |")


if __name__ == "__main__":
    main()

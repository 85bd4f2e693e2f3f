"""What an attacker may ask: images go in, **answers** (labels, probabilities, p-values, flags) come out, and a count.

`DetectorOracle` asks a detector in this process, `ClassifierOracle` the classifier alone, as whoever attacks a service
without heatward does. A running server is asked by `training.redteam.remote`. Whoever asks sends pictures: images are
rounded to 8 bits first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector

__all__ = ["Answers", "ClassifierOracle", "DetectorOracle", "Oracle", "known_probabilities", "to_8_bits"]

TINY = 1e-12
AT_ONCE = 64
"""Images judged together."""


@dataclass(frozen=True)
class Answers:
    """What an oracle says of B images."""

    label: Tensor  # (B,) int64
    probability: Tensor  # (B, K); of classes that were not named, the smallest that was
    p_value: Tensor  # (B,) float64; NaN where the oracle keeps it to itself
    flagged: Tensor  # (B,) bool, at the rate the attacker wants to stay under; False where the oracle keeps it back


class Oracle(Protocol):
    """Somebody who answers, and counts the images asked about."""

    asked: int
    told: str
    """How much it tells: "full"; "verdict", no p-value; "none", no flag either."""
    version: str
    """Of the detector that a server answers with; empty where it is the one of this process."""

    def ask(self, images: Tensor) -> Answers:
        """Answers about images (B, 3, H, W) in [0, 1]."""


class DetectorOracle:
    """The detector, in this process; it tells what a server tells: the few most probable labels.

    Args:
        detector: Is asked.
        rate: The false-positive rate at which it flags.
    """

    def __init__(self, detector: Detector, rate: float) -> None:
        self.detector, self.rate, self.asked, self.told, self.version = detector, rate, 0, "full", ""

    def ask(self, images: Tensor) -> Answers:
        self.asked += len(images)
        verdicts = [
            verdict for batch in torch.split(to_8_bits(images), AT_ONCE) for verdict in self.detector.detect(batch)
        ]
        p_value = torch.tensor([each.p_value for each in verdicts], dtype=torch.float64)
        return Answers(
            torch.tensor([each.label for each in verdicts], dtype=torch.long),
            known_probabilities([each.top for each in verdicts], self.detector.classifier.num_classes),
            p_value,
            p_value <= self.rate,
        )


class ClassifierOracle:
    """The classifier without heatward: nothing is ever flagged."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.asked, self.told, self.version = classifier, 0, "full", ""

    @torch.no_grad()
    def ask(self, images: Tensor) -> Answers:
        self.asked += len(images)
        pixels = to_8_bits(images).to(self.classifier.device)
        logits = torch.cat([self.classifier(batch) for batch in torch.split(pixels, 4 * AT_ONCE)]).cpu()
        nothing = torch.ones(len(images), dtype=torch.float64)
        return Answers(logits.argmax(1), logits.softmax(1), nothing, nothing < 0)


def to_8_bits(images: Tensor) -> Tensor:
    """Images as a picture holds them: multiples of 1/255 in [0, 1]."""
    return images.clamp(0, 1).mul(255).round().div(255).float()


def known_probabilities(tops: Sequence[Sequence[tuple[int, float]]], classes: int) -> Tensor:
    """(B, K) of the few (label, probability) that were named of each of B images, the best first."""
    found = torch.empty(len(tops), classes)
    for row, top in enumerate(tops):
        found[row] = min((probability for _, probability in top), default=TINY)
        for label, probability in top:
            found[row, label] = probability
    return found.clamp_min(TINY)

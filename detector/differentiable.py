"""The differentiable twin of a detector: **images with a gradient in, the detector's own scores with a gradient out**.

    images (B, 3, H, W) ─▶ evidence that stays on the graph ─▶ heatmap networks ─▶ attack score (B,), origin (B, C)
                                                               └▶ classifier ─▶ logits (B, K)

What an attacker who has the bundle computes, to measure what the detector withstands (ADR 32). It is the same evidence
by the same code, so its scores are the detector's, but for the last digits. Gradients go through the attribution (of
second order), every view, the witness, the networks and the novelty; rounding in the JPEG view and the novelty's tables
have the gradients of what is near them, and so have the slope of a ReLU (`detector.surrogate`) and the greater of two
scores, of which both are gone down where they are close. Classes are looked at in
the order that the step began with.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import CalibrationError, ConfigError
from detector.scoring.network import score
from detector.surrogate import SmoothSlopes

__all__ = ["DifferentiableDetector", "Seen"]


@dataclass(frozen=True)
class Seen:
    """What the twin answers about B images, all on their graph."""

    logits: Tensor  # (B, K) of the classifier
    scores: Tensor  # (B,) float64 attack scores, as in a verdict: below 0 where a glance cleared an image
    origin: Tensor  # (B, C) probabilities of the label before an attack
    candidates: Tensor  # (B, C) which labels these are; the first is the prediction
    glance: Tensor | None  # (B,) how far the glance is from clearing each image; None without a cascade


class DifferentiableDetector:
    """See the module's docstring; holds no copy of a weight, and belongs to one thread, as the detector does.

    Args:
        detector: Whose twin it is; stays as it is.

    Raises:
        ConfigError: "white box refused": the classifier or the witness gives no gradients.
    """

    def __init__(self, detector: Detector) -> None:
        refuse_hidden("classifier", detector.classifier)
        if detector.extractor.witness is not None:
            refuse_hidden("witness", detector.extractor.witness)
        self.detector = detector
        self.extractor = copy(detector.extractor)
        self.extractor.on_graph = True

    def __call__(self, images: Tensor) -> Seen:
        """Look at images (B, 3, H, W) in [0, 1], of the classifier's size and on its device.

        Raises:
            ImageShapeError: They are no such batch.
            NonFiniteLogitsError: The classifier answered NaN or infinity.
        """
        networks, cascade = self.detector.networks, self.detector.cascade
        with torch.enable_grad(), SmoothSlopes():
            if cascade is None:
                evidence = self.extractor(images)
                scores, origin = score(networks, evidence)
                return Seen(evidence.logits, scores, origin, evidence.candidates, None)
            glance = self.extractor.glance(images, cascade.views)
            first = score(cascade.networks, glance.evidence)[0] - cascade.threshold
            scores, origin, _ = cascade.judge(glance.evidence, networks, lambda rows: self.extractor.look(glance[rows]))
            return Seen(glance.evidence.logits, scores, origin, glance.evidence.candidates, first)

    def thresholds(self, rate: float) -> Tensor:
        """(K,) float64: the smallest score that is flagged at a false-positive rate, by predicted class.

        It is infinite where too few clean images vouch for the rate, so that nothing is flagged.
        """
        detector, classes = self.detector, self.detector.classifier.num_classes
        calibrations = [detector.calibration] * classes
        if (groups := detector.groups) is not None:
            calibrations = [groups.calibrations[number] for number in groups.of_class.tolist()]

        def of(number: int) -> float:
            try:
                return calibrations[number].threshold(rate)
            except CalibrationError:
                if 0 < rate < 1:
                    return math.inf
                raise

        return torch.tensor([of(number) for number in range(classes)], dtype=torch.float64)

    def excess(self, seen: Seen, thresholds: Tensor) -> Tensor:
        """(B,) how far each image is from going unflagged; at and above 0 it is flagged.

        Behind a glance there are two ways: to be cleared by it, or to score less in full; what is nearer counts.

        Args:
            seen: What was answered about the images.
            thresholds: (K,) of a rate, from `thresholds`.
        """
        over = seen.scores - thresholds.to(seen.scores)[seen.candidates[:, 0]]
        return over if seen.glance is None else torch.minimum(over, seen.glance)


def refuse_hidden(role: str, net: Classifier) -> None:
    """See that a net gives gradients.

    Raises:
        ConfigError: It gives none.
    """
    if not net.differentiable:
        raise ConfigError(
            f"white box refused: {role} {net.spec.source!r} gives no gradients ({net.no_gradient}); use attacks that "
            "ask for answers alone"
        )

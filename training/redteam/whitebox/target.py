"""What is attacked: images in; how far they are from fooling the classifier unflagged, and which way is nearer, out.

    images ─▶ classifier ─────────▶ margin of the label, with its gradient          one pass and back: cheap
           ─▶ differentiable twin ─▶ excess over the threshold, with its gradient    a dozen passes, and back: dear

An image is *through* where its margin is below 0, so that it fools the classifier, and its excess is below 0, so that
the detector does not flag it at the rate. The detector is asked about the images of which that has to be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.detector import Detector
from detector.differentiable import DifferentiableDetector

__all__ = ["Look", "Target"]

CHUNK = 16
"""Images of one look by the twin, which holds the graph of all their views."""
CLEAR_MARGIN = 1e-4  # in logits: what fools by less may not in a batch of another size


@dataclass
class Look:
    """What is known of B images after a step. Of those that the detector was not asked about, excess is infinite."""

    margin: Tensor  # (B,) logit of the label less the highest other
    margin_gradient: Tensor  # (B, 3, H, W)
    excess: Tensor  # (B,) float64: score less threshold
    excess_gradient: Tensor  # (B, 3, H, W)
    p_value: Tensor  # (B,) float64; 0 where the detector was not asked

    @property
    def fools(self) -> Tensor:
        return self.margin < -CLEAR_MARGIN

    @property
    def through(self) -> Tensor:
        return self.fools & (self.excess < 0)


class Target:
    """A detector that flags at a rate, and the labels that its classifier is to be led away from.

    Args:
        detector: The real one; its twin is made here.
        images: (B, 3, H, W) originals, on the classifier's device.
        rate: The false-positive rate at which images are flagged.

    Raises:
        ConfigError: "white box refused": something gives no gradients.
        CalibrationError: The rate is not between 0 and 1.
    """

    def __init__(self, detector: Detector, images: Tensor, rate: float) -> None:
        self.detector, self.classifier = detector, detector.classifier
        self.twin = DifferentiableDetector(detector)
        self.rate, self.thresholds = rate, self.twin.thresholds(rate)
        with torch.no_grad():
            parts = [self.classifier(part).argmax(1) for part in torch.split(images, CHUNK)]
        self.labels = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)

    def margins(self, images: Tensor, rows: Tensor) -> Look:
        """Ask the classifier alone.

        Args:
            images: (n, 3, H, W).
            rows: (n,) whose labels they are to be led away from.
        """
        parts = [self._margin(*part) for part in zip(torch.split(images, CHUNK), torch.split(rows, CHUNK), strict=True)]
        margin, gradient = (torch.cat(each) for each in zip(*parts, strict=True))
        unknown = torch.full(margin.shape, torch.inf, dtype=torch.float64, device=margin.device)
        return Look(margin, gradient, unknown, torch.zeros_like(gradient), torch.zeros_like(unknown))

    def ask(self, look: Look, images: Tensor, which: Tensor) -> None:
        """Ask the detector about some of the images of a look, `which` (n,) bool, and write it there."""
        for part in torch.split(which.nonzero()[:, 0], CHUNK):
            if not len(part):
                continue
            leaf = images[part].clone().requires_grad_()
            seen = self.twin(leaf)
            excess = self.twin.excess(seen, self.thresholds)
            (gradient,) = torch.autograd.grad(excess.sum(), leaf)
            look.excess[part], look.excess_gradient[part] = excess.detach(), gradient.nan_to_num(0, 0, 0)
            p_value = self.detector.p_value(seen.scores.detach(), seen.candidates[:, 0])
            look.p_value[part] = p_value.to(look.p_value.device)

    def _margin(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        with torch.enable_grad():
            margin = margin_of(self.classifier(leaf), self.labels[rows])
        (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        return margin.detach(), gradient.nan_to_num(0, 0, 0)


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) how far the label's logit lies above the highest other."""
    own = logits.gather(1, labels[:, None])
    return own[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(1)

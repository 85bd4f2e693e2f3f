"""What evidence costs: an extractor in, **forward-equivalents** of a glance and of a full look out.

Floating-point operations are counted, not timed, and divided by those of the classifier's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from detector.evidence import EvidenceExtractor

__all__ = ["Cost", "cost_of", "operations"]


@dataclass(frozen=True)
class Cost:
    """Of an image, in forward passes of the classifier."""

    glance: float
    """What every image costs: a forward pass, the margin's backward, the witness, the heatmap people are shown, and
    the views that the glance takes."""
    views: float
    """What an image costs besides that goes on to the full look."""

    def mean(self, went_on: float) -> float:
        """On traffic of which this share goes on."""
        return self.glance + went_on * self.views


def cost_of(extractor: EvidenceExtractor, views: Sequence[int] = ()) -> Cost | None:
    """Count on one grey image, glanced at with these views; None where the classifier's operations cannot be seen."""
    classifier = extractor.classifier
    image = torch.full((1, 3, *classifier.input_size), 0.5, device=classifier.device)
    with torch.no_grad():
        forward = operations(lambda: classifier(image))
    if not forward:
        return None
    glance = operations(lambda: extractor.glance(image, views))
    return Cost(glance / forward, (operations(lambda: extractor(image)) - glance) / forward)


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())

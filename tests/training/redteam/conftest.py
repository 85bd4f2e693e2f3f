"""A trained tiny detector to be attacked, once for all tests of the red team's white box."""

from __future__ import annotations

import pytest
import tiny
import tiny_guard
import torch

from detector.classifier import Classifier
from detector.detector import Detector


@pytest.fixture(scope="session")
def guarded(tiny_classifier: Classifier) -> Detector:
    """A detector that tells noisy images from clean ones: enough to be in the way."""
    return tiny_guard.detector(tiny_classifier)


@pytest.fixture(scope="session")
def targets(guarded: Detector) -> torch.Tensor:
    """Six rightly classified images that it does not flag at 20 %, of every class."""
    drawn = tiny.images(40, seed=11)
    verdicts = guarded.detect(drawn.images)
    good = [
        row for row, verdict in enumerate(verdicts) if verdict.label == int(drawn.labels[row]) and verdict.p_value > 0.2
    ]
    return drawn.images[good[:6]]

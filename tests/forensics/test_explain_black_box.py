"""A classifier that cannot be opened is explained by what needs answers only; the rest says why not."""

from __future__ import annotations

import hidden
import tiny
from tiny_bundle import tiny_bundle

from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from forensics.explain.compute import explain


def test_occlusion_answers_and_gradients_say_why_not(tiny_classifier: Classifier) -> None:
    spec = tiny.SPEC.model_copy(update={"source": "python:hidden:net"})
    closed = load_classifier(spec, state_dict=hidden.weights(), allow=("hidden",))
    detector = Detector.assemble(tiny_bundle(closed, tiny_classifier), allow=("hidden", "tiny"))
    found = explain(detector, tiny.images(1).images[0], name="one", methods=("occlusion", "gradient"))
    occluded, gradient = found.methods
    assert occluded.maps and not occluded.failure
    assert "gradient" in gradient.failure and found.channels.failure
    assert min(found.verdict.heatmap.shape) >= 6

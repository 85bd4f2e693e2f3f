"""A heatmap that is computed anew is the verdict's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
import torch
from tiny_bundle import tiny_bundle

from detector.bundle import save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from forensics.review.judge import open_judge


def test_the_bundle_judges_as_the_server_does(tiny_classifier: Classifier, tmp_path: Path) -> None:
    bundle = tiny_bundle(tiny_classifier)
    save_bundle(tmp_path / "tiny.heatward", bundle)
    judge, classes = open_judge(tmp_path / "tiny.heatward", ("tiny",))
    image = (tiny.images(1, seed=3).images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    pixels, heatmap = judge(image)
    detector = Detector.assemble(bundle, allow=("tiny",))
    (verdict,) = detector.detect(detector.classifier.prepare(image)[None])
    assert (pixels == image).all() and np.allclose(heatmap, verdict.heatmap)
    assert classes == detector.classifier.classes

"""A detector of the tiny classifier with a cascade: untrained networks, which disagree enough to rank images."""

from __future__ import annotations

import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector
from detector.evidence import EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.views import ViewSettings
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import Cascade, threshold_of
from detector.scoring.network import HeatmapNetwork, NetworkSettings, score

VIEWS = ViewSettings(noise=(4.0,), noise_draws=1, shifts=(), blur=False, rescale=())  # two: noise and mirror
EVIDENCE = EvidenceSettings(views=VIEWS)
NETWORK = NetworkSettings(width=16, token=16, ensemble=1)
FAMILIES = 3
CLEARS = 0.6


def network_for(shape: EvidenceShape, seed: int) -> HeatmapNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HeatmapNetwork(shape, FAMILIES, NETWORK).eval().requires_grad_(False)


def detector(classifier: Classifier, calibration: Tensor | None = None) -> Detector:
    """A detector that clears about 60 % of tiny images; calibrated on `calibration`, (n, 3, 16, 16)."""
    extractor = EvidenceExtractor(classifier, EVIDENCE)
    evidence = extractor(tiny.images(80, seed=3).images)
    full = network_for(EvidenceShape.of(evidence), 0)
    first = network_for(EvidenceShape.of(evidence.without_views()), 1)
    for network, seen in ((full, evidence), (first, evidence.without_views())):
        network.fit_scales(seen)
    held_out, _ = score([first], evidence.without_views())
    cascade = Cascade((first,), threshold_of(held_out, CLEARS), CLEARS)
    made = Detector(classifier, extractor, [full], Calibration(torch.zeros(0)), cascade=cascade)
    images = tiny.images(60, seed=4).images if calibration is None else calibration
    made.calibration = Calibration.fit(torch.tensor([each.attack_score for each in made.detect(images)]).double())
    return made

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


def detector(
    classifier: Classifier,
    calibration: Tensor | None = None,
    views: tuple[int, ...] = (),
    witness: Classifier | None = None,
    *,
    black_box: bool | None = None,
) -> Detector:
    """A detector that clears about 60 % of tiny images.

    Args:
        classifier: That it guards.
        calibration: Images (n, 3, 16, 16) that it is calibrated on.
        views: Places of those that its glance takes.
        witness: Of its evidence.
        black_box: As of `EvidenceExtractor`.
    """
    extractor = EvidenceExtractor(classifier, EVIDENCE, witness, black_box=black_box)
    evidence = extractor(tiny.images(80, seed=3).images)
    full = network_for(EvidenceShape.of(evidence), 0)
    glanced = evidence.at_a_glance(views)
    first = network_for(EvidenceShape.of(glanced), 1)
    for network, seen in ((full, evidence), (first, glanced)):
        network.fit_scales(seen)
    held_out, _ = score([first], glanced)
    cascade = Cascade((first,), threshold_of(held_out, CLEARS), CLEARS, views)
    made = Detector(classifier, extractor, [full], Calibration(torch.zeros(0)), cascade=cascade)
    images = tiny.images(60, seed=4).images if calibration is None else calibration
    made.calibration = Calibration.fit(torch.tensor([each.attack_score for each in made.detect(images)]).double())
    return made

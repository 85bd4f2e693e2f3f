"""A detector of the tiny classifier whose network learned in a second what an attack that knows no detector does."""

from __future__ import annotations

import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.evidence import Evidence, EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.views import ViewSettings
from detector.scoring.calibration import Calibration
from detector.scoring.network import HeatmapNetwork, NetworkSettings

VIEWS = ViewSettings(noise=(4.0,), noise_draws=1, shifts=(), blur=False, rescale=())
STEPS = 60


def detector(classifier: Classifier) -> Detector:
    witness = load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(seed=1))
    extractor = EvidenceExtractor(classifier, EvidenceSettings(views=VIEWS), witness)
    drawn = tiny.images(120, seed=3)
    clean, attacked = extractor(drawn.images), extractor(pushed(classifier, drawn.images))
    network = _fitted(clean, attacked)
    network.novelty.fit(clean, clean)
    guard = Detector(classifier, extractor, [network], Calibration(torch.zeros(0)))
    guard.calibration = Calibration.fit(torch.arange(20.0))
    scores = [each.attack_score for each in guard.detect(tiny.images(99, seed=4).images)]
    guard.calibration = Calibration.fit(torch.tensor(scores).double())
    return guard


def pushed(classifier: Classifier, images: Tensor, eps: float = 16 / 255, steps: int = 5) -> Tensor:
    """What goes down the margin and knows nothing of a detector."""
    with torch.no_grad():
        labels = classifier(images).argmax(1, keepdim=True)
    moved = images
    for _ in range(steps):
        leaf = moved.clone().requires_grad_()
        logits = classifier(leaf)
        margin = logits.gather(1, labels)[:, 0] - logits.scatter(1, labels, -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), leaf)
        moved = (moved - eps / 3 * gradient.sign()).clamp(images - eps, images + eps).clamp(0, 1)
    return (moved * 255).round() / 255


def _fitted(clean: Evidence, attacked: Evidence) -> HeatmapNetwork:
    both = Evidence.cat([clean, attacked])
    families = torch.cat([torch.zeros(len(clean)), torch.ones(len(attacked))]).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HeatmapNetwork(EvidenceShape.of(both), 2, NetworkSettings(width=16, token=16, ensemble=1, dropout=0))
        network.fit_scales(both)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(STEPS):
            loss = torch.nn.functional.cross_entropy(network(both).family_logits, families)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval().requires_grad_(False)

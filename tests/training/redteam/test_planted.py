"""Detectors in which an adversarial image is sure to exist."""

from __future__ import annotations

import pytest
import tiny
import torch
from tiny_red_team import bundle_at, detector_of

from detector.classifier import Classifier
from detector.detector import Detector
from training.redteam.planted import last_layer, plant
from training.redteam.values import Budget

BUDGET, RATE = Budget("Linf", 16 / 255, 20), 0.05


@pytest.fixture(scope="module")
def detector(tiny_classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return detector_of(bundle_at(tmp_path_factory.mktemp("bundle") / "tiny.heatward", tiny_classifier))


@pytest.mark.parametrize("inverted", [False, True])
def test_what_is_planted_fools_and_is_not_flagged(
    inverted: bool, detector: Detector, tiny_images: tiny.TinyImages
) -> None:
    for seed, image in enumerate(tiny_images.images[:4]):
        made = plant(detector, image, BUDGET, RATE, seed, inverted=inverted)
        before, after = made.detector.detect(torch.stack([image, made.image]))
        assert before.label == detector.detect(image[None])[0].label != after.label
        assert after.p_value > RATE
        assert float((made.image - image).abs().max()) <= BUDGET.eps + 1e-6


def test_points_inside_keep_their_label(detector: Detector, tiny_images: tiny.TinyImages) -> None:
    image = tiny_images.images[0]
    made = plant(detector, image, BUDGET, RATE, 0, inverted=False)
    noise = 2 * torch.rand(64, *image.shape, generator=torch.Generator().manual_seed(99)) - 1
    label = made.detector.classifier((image + 0.8 * BUDGET.eps * noise).clamp(0, 1)).argmax(1)
    assert float((label == made.detector.detect(image[None])[0].label).double().mean()) > 0.9


def test_inverted_flags_what_looked_clean(detector: Detector, tiny_images: tiny.TinyImages) -> None:
    image = tiny_images.images[0]
    plain, turned = (plant(detector, image, BUDGET, RATE, 0, inverted=each).detector for each in (False, True))
    order = [[each.attack_score for each in made.detect(tiny_images.images[:16])] for made in (plain, turned)]
    ranks = torch.tensor(order).argsort(1).argsort(1).double()
    assert float(torch.corrcoef(ranks)[0, 1]) < -0.5


def test_the_detector_stays_as_it_was(detector: Detector, tiny_images: tiny.TinyImages) -> None:
    before = [each.p_value for each in detector.detect(tiny_images.images[:8])]
    plant(detector, tiny_images.images[0], BUDGET, RATE, 0, inverted=True)
    assert [each.p_value for each in detector.detect(tiny_images.images[:8])] == before
    assert last_layer(detector.classifier) == "net.head"

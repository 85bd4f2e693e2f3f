from __future__ import annotations

import math

import pytest
import torch
from random_evidence import evidence_of
from torch import Tensor

from detector.evidence import Evidence, EvidenceShape
from detector.scoring.surprise import Surprise, doubt
from detector.settings import ScoreSettings

USUAL = evidence_of(2000, 4, 4)
SETTINGS = ScoreSettings()
STABILITY, DIVERGENCE = slice(-18, None), -20


def fitted(evidence: Evidence = USUAL, settings: ScoreSettings = SETTINGS) -> Surprise:
    surprise = Surprise(EvidenceShape.of(evidence), settings)
    surprise.fit(evidence, evidence)
    return surprise


def changed(evidence: Evidence, **tensors: Tensor) -> Evidence:
    return Evidence(**(evidence.tensors() | tensors))


def test_before_it_is_fitted_nothing_surprises() -> None:
    assert bool((Surprise(EvidenceShape.of(USUAL), SETTINGS)(USUAL) == 0).all())


def test_each_number_is_minus_log_of_a_share_of_clean_images() -> None:
    found = fitted()(evidence_of(2000, 4, 4, seed=1))
    # −log of a uniform share has mean 1; there are four
    assert found.mean().item() == pytest.approx(4, abs=0.3)
    assert found.min() >= 0 and found.max() <= 4 * math.log(SETTINGS.quantiles + 1)


@pytest.mark.parametrize("where", [STABILITY, DIVERGENCE])
def test_what_no_clean_image_shows_surprises(where: slice | int) -> None:
    surprise, other = fitted(), evidence_of(50, 4, 4, seed=1)
    channels = other.channels.clone()
    channels[:, where] = 40.0
    assert bool((surprise(changed(other, channels=channels)) > surprise(other)).all())


def test_class_features_against_their_usual_direction_surprise() -> None:
    features = USUAL.class_features.clone()
    features[:, 1] = features[:, 0]  # among clean images, these two agree
    surprise = fitted(changed(USUAL, class_features=features))
    agree, other = evidence_of(200, 4, 4, seed=1), evidence_of(200, 4, 4, seed=1)
    agree.class_features[:, 1] = agree.class_features[:, 0]
    opposite = other.class_features.clone()
    opposite[:, 1] = -opposite[:, 0]
    assert surprise(changed(other, class_features=opposite)).mean() > surprise(agree).mean() + 1


def test_doubt_is_the_witness_and_the_margin() -> None:
    features = USUAL.class_features.clone()
    features[:, 0, 8:10] = math.log(0.25)  # log P of the prediction, on the image and on its mirror image
    first, second = USUAL.logits.softmax(1).topk(2).values.unbind(1)
    torch.testing.assert_close(doubt(changed(USUAL, class_features=features), 0.3), -0.25 - 0.3 * (first - second))


def test_without_a_witness_three_numbers_remain() -> None:
    alone = changed(
        USUAL,
        maps=USUAL.maps[:, :, :1],
        class_features=USUAL.class_features[..., :8],
        channels=torch.cat([USUAL.channels[:, :12], USUAL.channels[:, STABILITY]], dim=1),
    )
    first, second = alone.logits.softmax(1).topk(2).values.unbind(1)
    torch.testing.assert_close(doubt(alone, 0.3), second - first)
    assert fitted(alone)(alone).mean().item() == pytest.approx(3, abs=0.3)


def test_its_settings_decide_what_it_looks_at() -> None:
    evidence = evidence_of(50, 4, 4, seed=1)
    plain = fitted()(evidence)
    for other in ({"margin_share": 0.9}, {"first_candidates": 2}, {"quantiles": 8}):
        assert not torch.equal(fitted(settings=SETTINGS.model_copy(update=other))(evidence), plain)
    features = evidence.class_features.clone()
    features[:, 2:] = 40.0  # behind the first two candidates
    settings = ScoreSettings(first_candidates=2)
    surprise = fitted(settings=settings)
    assert torch.equal(surprise(changed(evidence, class_features=features)), surprise(evidence))

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from random_evidence import evidence_of
from torch import Tensor

from detector.evidence import Evidence, EvidenceShape
from detector.scoring.novelty import Novelty, doubt
from detector.settings import ScoreSettings

USUAL = evidence_of(2000, 4, 4)
SETTINGS = ScoreSettings()


def fitted(evidence: Evidence = USUAL, settings: ScoreSettings = SETTINGS) -> Novelty:
    novelty = Novelty(EvidenceShape.of(evidence), settings)
    novelty.fit(evidence, evidence)
    return novelty


def changed(evidence: Evidence, name: str, group: Tensor) -> Evidence:
    return replace(evidence, groups={**evidence.groups, name: group})


def test_before_it_is_fitted_nothing_is_novel() -> None:
    assert bool((Novelty(EvidenceShape.of(USUAL), SETTINGS)(USUAL) == 0).all())


def test_each_number_is_minus_log_of_a_share_of_clean_images() -> None:
    found = fitted()(evidence_of(2000, 4, 4, seed=1))
    # −log of a uniform share has mean 1; there are four
    assert found.mean().item() == pytest.approx(4, abs=0.3)
    assert found.min() >= 0 and found.max() <= 4 * math.log(SETTINGS.quantiles + 1)


@pytest.mark.parametrize("name", ["views.stability", "witness.divergence"])
def test_what_no_clean_image_shows_is_novel(name: str) -> None:
    novelty, other = fitted(), evidence_of(50, 4, 4, seed=1)
    extreme = torch.full_like(other.groups[name], 40.0)
    raised = novelty(changed(other, name, extreme)) - novelty(other)
    assert raised.min() >= 0 and raised.median() > 3


def test_answers_against_their_usual_direction_are_novel() -> None:
    def second_as_first(evidence: Evidence, sign: float) -> Evidence:
        answers = evidence.groups["views.logit"].clone()
        answers[:, 1] = sign * answers[:, 0]
        return changed(evidence, "views.logit", answers)

    novelty = fitted(second_as_first(USUAL, 1))  # among clean images, these two agree
    other = evidence_of(200, 4, 4, seed=1)
    assert novelty(second_as_first(other, -1)).mean() > novelty(second_as_first(other, 1)).mean() + 1


def test_doubt_is_the_witness_and_the_margin() -> None:
    said = USUAL.groups["witness.log_probability"].clone()
    said[:, 0] = math.log(0.25)  # of the prediction, on the image and on its mirror image
    first, second = USUAL.logits.softmax(1).topk(2).values.unbind(1)
    found = doubt(changed(USUAL, "witness.log_probability", said), 0.3)
    torch.testing.assert_close(found, -0.25 - 0.3 * (first - second))


def test_without_a_witness_three_numbers_remain() -> None:
    own = {name: group for name, group in USUAL.groups.items() if not name.startswith("witness.")}
    alone = replace(USUAL, groups=own)
    first, second = alone.logits.softmax(1).topk(2).values.unbind(1)
    torch.testing.assert_close(doubt(alone, 0.3), second - first)
    assert fitted(alone)(alone).mean().item() == pytest.approx(3, abs=0.3)


def test_its_settings_decide_what_it_looks_at() -> None:
    evidence = evidence_of(50, 4, 4, seed=1)
    plain = fitted()(evidence)
    for other in ({"margin_share": 0.9}, {"first_candidates": 2}, {"quantiles": 8}):
        assert not torch.equal(fitted(settings=SETTINGS.model_copy(update=other))(evidence), plain)
    answers = evidence.groups["classes.logit"].clone()
    answers[:, 2:] = 40.0  # behind the first two candidates
    novelty = fitted(settings=ScoreSettings(first_candidates=2))
    assert torch.equal(novelty(changed(evidence, "classes.logit", answers)), novelty(evidence))

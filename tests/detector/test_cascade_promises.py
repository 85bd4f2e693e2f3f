"""A cascade beside what else a bundle may promise: by group, beyond the smallest p-value, and of predictions."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tiny_cascade
import torch

from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError, CalibrationError
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import check_vouched, score_of_both
from detector.scoring.groups import SHARED, Groups
from detector.scoring.reliability import Reliability
from detector.scoring.risk import RiskHead, signs
from detector.scoring.tail import Tail

IMAGES = tiny.images(60, seed=12).images
CLASSES = len(tiny.CLASSES)


@pytest.fixture(scope="module")
def plain(tiny_classifier: Classifier) -> Detector:
    return tiny_cascade.detector(tiny_classifier)


def promising(
    plain: Detector, *, reliability: Reliability | None = None, groups: Groups | None = None, tail: bool = False
) -> Detector:
    """The same detector with more to say."""
    return Detector(
        plain.classifier,
        plain.extractor,
        plain.networks,
        plain.calibration,
        None,
        reliability,
        groups,
        tail,
        plain.cascade,
    )


def reliability_of(views: bool) -> Reliability:
    """A risk made of every sign, and three levels of it."""
    count = 4 if views else 3
    weights = torch.tensor([0.3, -0.5, -0.2, 0.1 if views else 0.0, 0.0][: count + 1], dtype=torch.float64)
    head = RiskHead(torch.zeros(count).double(), torch.ones(count).double(), weights, views=views)
    levels = torch.tensor([-2.0, -1.0, -0.5], dtype=torch.float64)
    return Reliability(head, levels, torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64))


def drawn(count: int, went_on: int, seed: int = 0) -> torch.Tensor:
    """Clean scores: those of cleared images below 0."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(
        np.concatenate([-random.exponential(size=count - went_on), random.exponential(size=went_on)])
    )


def test_p_values_by_group_are_ranks_of_both_looks_together(plain: Detector) -> None:
    said = plain.detect(IMAGES)
    scores, labels = (np.array([getattr(each, name) for each in said]) for name in ("attack_score", "label"))
    groups = Groups.fit(scores, labels, np.arange(len(labels)), classes=CLASSES, rate=0.05)
    verdicts = promising(plain, groups=groups).detect(IMAGES)
    assert [each.attack_score for each in verdicts] == [each.attack_score for each in said]
    assert {each.cleared for each in verdicts} == {True, False}
    for name, size in zip(groups.names(plain.classifier.classes), groups.sizes, strict=True):
        own = sorted((each for each in verdicts if each.calibration_group == name), key=lambda each: each.attack_score)
        assert [round(each.p_value * (size + 1)) for each in own] == list(range(size + 1, 1, -1))


def test_each_group_must_vouch_for_its_own_operating_points() -> None:
    scores = torch.cat([drawn(100, 40), drawn(100, 5, 1)]).numpy()
    predictions, everything = np.repeat([0, 1], 100), Calibration.fit(torch.from_numpy(scores))
    check_vouched(everything)  # together 45 of 200 went on
    groups = Groups.fit(scores, predictions, np.arange(200), classes=2, rate=0.05)
    with pytest.raises(CalibrationError, match=r"5 of 100 .* predicted as dog went on .*or all predicted classes"):
        check_vouched(everything, groups, ("cat", "dog"))
    check_vouched(everything, Groups(groups.calibrations[:1], torch.zeros(2).long()), ("cat", "dog"))
    shared = Groups((groups.calibrations[1],), torch.zeros(2).long())
    assert shared.names(("cat", "dog")) == (SHARED,)
    with pytest.raises(CalibrationError, match=r"5 of 100 .* of predicted classes that share a group went on"):
        check_vouched(everything, shared, ("cat", "dog"))


def test_a_tail_is_of_images_that_went_on() -> None:
    scores = drawn(1000, 300).numpy()
    tail = Tail.fit(scores)
    assert tail.threshold >= 0 and tail.excesses == 50
    assert tail.estimate(float(scores.max())).probability == pytest.approx(1e-3, rel=2)
    with pytest.raises(CalibrationError, match=r"more than 50 of 1000 clean images to go on to the full look, got 50"):
        Tail.fit(drawn(1000, 50).numpy())
    assert Tail.fit(drawn(1000, 51).numpy()).threshold >= 0


def test_a_tail_that_begins_among_the_cleared_is_not_estimated(plain: Detector) -> None:
    plain.calibration, before = Calibration.fit(drawn(300, 25) * 1e-3), plain.calibration
    try:
        detector = promising(plain, tail=True)
        assert detector.tails[0] is not None
        verdicts = detector.detect(IMAGES)
        assert any(each.tail for each in verdicts) and not any(each.tail for each in verdicts if each.cleared)
        plain.calibration = Calibration.fit(drawn(300, 15))
        assert promising(plain, tail=True).tails == (None,)
    finally:
        plain.calibration = before


def test_error_rates_are_one_function_of_cleared_images_and_of_others(plain: Detector) -> None:
    evidence = plain.extractor(IMAGES)  # in full, as the calibration reads it
    scores, origin = score_of_both(plain.cascade, plain.networks, evidence)
    head = reliability_of(views=False).head
    risks = head(signs(evidence, scores, origin, views=False)).sort().values
    levels = (risks[1:] + risks[:-1]) / 2
    reliability = Reliability(head, levels, torch.linspace(0.01, 0.9, len(levels), dtype=torch.float64))
    verdicts = promising(plain, reliability=reliability).detect(IMAGES)
    assert [each.error_rate for each in verdicts] == reliability.error_rate(evidence, scores, origin).tolist()
    for cleared in (True, False):
        assert len({each.error_rate for each in verdicts if each.cleared == cleared}) > 10


def test_a_head_that_reads_the_views_does_not_serve_with_a_cascade(plain: Detector) -> None:
    with pytest.raises(BundleDamagedError, match=r"reads 'views\.log_probability'.*train the bundle again"):
        promising(plain, reliability=reliability_of(views=True)).detect(IMAGES[:4])


def test_what_a_head_reads_is_stored_with_it_and_one_of_before_reads_the_views() -> None:
    with_views, without = reliability_of(views=True), reliability_of(views=False)
    assert set(with_views.tensors()) == {"mean", "scale", "weights", "levels", "error_rates"}
    assert Reliability.from_tensors(with_views.tensors()).head.views
    assert not Reliability.from_tensors(without.tensors()).head.views

"""Rules of a witness: they keep their rate on clean images, and the joint attack finds what can be found."""

import pytest
import torch
from torch import Tensor

from benchmarks.robustness.robust_witness import answers_to, fool_both
from benchmarks.robustness.witness_rules import RULES, Answers, margin, predicted

FLAGGING = [name for name in RULES if name != "none"]


def classify(pixels: Tensor) -> Tensor:
    """The brightest colour."""
    return 20 * pixels.mean((2, 3))


def always_red(pixels: Tensor) -> Tensor:
    return classify(pixels) * 0 + torch.tensor([5.0, 0.0, 0.0])


@pytest.fixture
def clean() -> Answers:
    drawn = torch.randn(3, 400, 4, generator=torch.Generator().manual_seed(0))
    return Answers(*drawn)


@pytest.fixture
def red() -> Tensor:
    """(12, 3, 4, 4): more red than anything else, by 40 to 80 of 255."""
    images = torch.full((12, 3, 4, 4), 100 / 255)
    images[:, 0] += torch.linspace(40, 80, 12).round()[:, None, None] / 255
    return images


@pytest.mark.parametrize("name", FLAGGING)
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_a_rule_flags_its_rate_of_the_images_that_set_it(clean: Answers, name: str, rate: float) -> None:
    flagged = (RULES[name](clean, rate)(clean, predicted(clean)) > 0).float().mean()
    assert 0.5 * rate < flagged <= rate


def test_too_few_images_for_a_rate_flag_nothing(clean: Answers) -> None:
    few = Answers(clean.classifier[:8], clean.witness[:8], clean.mirrored[:8])
    for name in FLAGGING:
        assert not (RULES[name](few, 0.05)(clean, predicted(clean)) > 1e-6).all(), name
    assert (RULES["log-p"](few, 0.05)(clean, predicted(clean)) == -torch.inf).all()


def test_an_unlikely_class_lacks_more_than_a_likely_one(clean: Answers) -> None:
    likely, unlikely = clean.witness.argmax(1), clean.witness.argmin(1)
    for name in ("log-p", "margin", "rank"):
        lacks = RULES[name](clean, 0.05)
        assert (lacks(clean, unlikely) > lacks(clean, likely)).all(), name


def test_by_confidence_each_fifth_keeps_the_rate(clean: Answers) -> None:
    classes = predicted(clean)
    flagged = RULES["by-confidence"](clean, 0.1)(clean, classes) > 0
    order = margin(clean.classifier, classes).argsort()
    for part in order.chunk(5):
        assert 0.05 < flagged[part].float().mean() <= 0.1


def test_both_asks_for_a_sure_classifier_and_a_likely_class(clean: Answers) -> None:
    lacks = RULES["both"](clean, 0.2)
    classes = torch.zeros(1, dtype=torch.long)
    sure, unsure = torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([[0.01, 0, 0, 0]])
    assert lacks(Answers(sure, sure, sure), classes) <= 0
    assert lacks(Answers(unsure, sure, sure), classes) > 0
    assert lacks(Answers(sure, -sure, sure), classes) > 0


def attack(images: Tensor, witness, name: str, eps: int) -> Tensor:
    torch.manual_seed(0)
    lacks = RULES[name](answers_to(classify, witness, images), 0.25)
    labels = torch.zeros(len(images), dtype=torch.long)
    return fool_both(classify, witness, images, labels, lacks, eps=eps / 255, steps=30, restarts=2)


@pytest.mark.parametrize("name", RULES)
def test_who_may_change_everything_fools_both_and_who_may_change_little_fools_none(red: Tensor, name: str) -> None:
    assert attack(red, classify, name, eps=120).all()
    assert not attack(red, classify, name, eps=19).any()  # red stays ahead by 2 of 255


def test_a_witness_that_does_not_move_is_not_fooled(red: Tensor) -> None:
    assert attack(red, always_red, "none", eps=60).all()
    assert not attack(red, always_red, "log-p", eps=60).any()


def test_the_nearest_are_found_first(red: Tensor) -> None:
    found = attack(red, classify, "none", eps=30)
    assert found[:5].all() and not found[7:].any()  # the lead shrinks by 2 · 30 of 255

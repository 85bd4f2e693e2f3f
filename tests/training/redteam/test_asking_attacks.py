"""Attacks that only ask: they stay within their budget, count what they ask, and get past label and flag."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier
from training.redteam.blackbox import DECISION, SCORE, Found, Goal
from training.redteam.blackbox.goal import project, within
from training.redteam.oracles import Answers, ClassifierOracle, known_probabilities
from training.redteam.values import Budget

EPS = 48 / 255
ATTACKS = {**SCORE, **DECISION}


class Watchful:
    """The classifier, and a detector that flags images far from grey in the corner; it keeps p-values back if told."""

    told = "full"
    version = ""

    def __init__(self, classifier: Classifier, hides: bool = False) -> None:
        self.classifier, self.hides, self.asked, self.largest = ClassifierOracle(classifier), hides, 0, 0.0

    def ask(self, images: Tensor) -> Answers:
        self.asked += len(images)
        said = self.classifier.ask(images)
        far = (images[:, :, 0, 0] - 0.5).abs().amax(1).double()
        self.largest = max(self.largest, float(far.max()))
        p_value = (0.01 ** (far / 0.5)).clamp(1e-4, 1)
        hidden = torch.full_like(p_value, torch.nan) if self.hides else p_value
        return Answers(said.label, said.probability, hidden, p_value <= 0.05)


def right(classifier: Classifier, images: tiny.TinyImages) -> tuple[Tensor, Tensor]:
    label = ClassifierOracle(classifier).ask(images.images).label
    return images.images[label == images.labels][:8], label[label == images.labels][:8]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_attack_keeps_its_budget_and_counts(
    name: str, norm: str, tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    if (name, norm) == ("square", "L2"):
        pytest.skip("knows L∞ only")
    images, origin = right(tiny_classifier, tiny_images)
    oracle = ClassifierOracle(tiny_classifier)
    budget = Budget("Linf" if norm == "Linf" else "L2", EPS if norm == "Linf" else 2.5, 150)
    found: Found = ATTACKS[name](Goal(oracle, origin, None), images, budget, 0)
    assert found.images.shape == images.shape
    assert torch.equal(found.images, (found.images * 255).round() / 255)
    assert oracle.asked == int(found.spent.sum()) and int(found.spent.max()) <= budget.steps
    change = (found.images - images).flatten(1)
    size = change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)
    if name not in DECISION:  # which look for the least change
        assert float(size.max()) <= budget.eps + 1e-5
    label = ClassifierOracle(tiny_classifier).ask(found.images).label
    assert torch.equal(label != origin, found.reached) and int(found.reached.sum()) >= 3


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_minds_the_flag(name: str, tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images, origin = right(tiny_classifier, tiny_images)
    oracle = Watchful(tiny_classifier)
    found = ATTACKS[name](Goal(oracle, origin, 0.05), images, Budget("Linf", EPS, 150), 0)
    said = oracle.ask(found.images)
    assert torch.equal((said.label != origin) & ~said.flagged, found.reached) and bool(found.reached.any())


@pytest.mark.parametrize("name", SCORE)
def test_a_p_value_that_is_kept_back_leaves_the_flag(
    name: str, tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images, origin = right(tiny_classifier, tiny_images)
    goal = Goal(Watchful(tiny_classifier, hides=True), origin, 0.05)
    assert bool(goal.loss(images, torch.arange(len(images))).isfinite().all())
    assert bool(SCORE[name](goal, images, Budget("Linf", EPS, 150), 0).reached.any())


def test_a_decision_attack_comes_nearer_with_more_questions(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images, origin = right(tiny_classifier, tiny_images)
    goal = Goal(ClassifierOracle(tiny_classifier), origin, None)

    def size(questions: int) -> float:
        found = DECISION["hopskipjump"](goal, images, Budget("L2", 1.0, questions), 0)
        assert bool(found.reached.all())
        return float((found.images - images).flatten(1).norm(dim=1).median())

    assert size(400) < 0.7 * size(30)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_attack(
    name: str, tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images, origin = right(tiny_classifier, tiny_images)
    goal, budget = Goal(ClassifierOracle(tiny_classifier), origin, None), Budget("Linf", EPS, 40)
    one, other, another = (ATTACKS[name](goal, images, budget, seed).images for seed in (3, 3, 4))
    assert torch.equal(one, other) and not torch.equal(one, another)


def test_a_change_is_brought_into_its_budget() -> None:
    images = torch.full((2, 3, 4, 4), 0.5).mul(255).round() / 255
    far = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    linf, l2 = (within(far, images, Budget(norm, 0.1, 1)) - images for norm in ("Linf", "L2"))
    assert 24 / 255 < float(linf.abs().max()) <= 0.1
    assert 0.05 < float(l2.flatten(1).norm(dim=1).max()) <= 0.1
    assert torch.equal(project(images, images, Budget("L2", 0.1, 1)), images)


def test_labels_that_are_not_named_are_no_likelier_than_those_that_are() -> None:
    found = known_probabilities([[(2, 0.7), (0, 0.1)]], 4)
    assert found[0].tolist() == pytest.approx([0.1, 0.1, 0.7, 0.1])

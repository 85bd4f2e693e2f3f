"""White-box attacks get through where attacks that know no detector are flagged, and keep to what they may."""

from __future__ import annotations

from dataclasses import replace

import hidden
import pytest
import smooth
import tiny
import tiny_cascade
import tiny_guard
import torch
from torch import Tensor

from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.errors import ConfigError, ImageShapeError
from training.redteam.values import Budget, Outcome
from training.redteam.whitebox import WHITE_BOX
from training.redteam.whitebox.ball import Ball
from training.redteam.whitebox.methods import Minimum
from training.redteam.whitebox.starts import STARTS, start
from training.redteam.whitebox.target import Look, Target

RATE = 0.2
BUDGET = Budget("Linf", 32 / 255, steps=20)


def through(outcome: Outcome) -> Tensor:
    return outcome.fools & (outcome.p_value > RATE)


def check_honest(outcome: Outcome, detector: Detector, originals: Tensor, budget: Budget) -> None:
    """What an outcome says is what the real detector says of images within the budget."""
    verdicts = detector.detect(outcome.images)
    before = [verdict.label for verdict in detector.detect(originals)]
    fools = [verdict.label != label for verdict, label in zip(verdicts, before, strict=True)]
    assert outcome.fools.tolist() == fools
    for row, verdict in enumerate(verdicts):
        assert outcome.p_value[row] == verdict.p_value
        assert outcome.fools[row] or torch.equal(outcome.images[row], originals[row])
    assert torch.equal((outcome.images * 255).round() / 255, outcome.images)
    assert (Ball(originals, budget).distance(outcome.images) <= budget.eps + 1e-6).all()
    assert float(outcome.images.min()) >= 0 and float(outcome.images.max()) <= 1


@pytest.mark.parametrize("name", WHITE_BOX)
def test_each_gets_through_where_an_attack_on_the_classifier_alone_is_flagged(
    name: str, guarded: Detector, targets: Tensor
) -> None:
    oblivious = guarded.detect(tiny_guard.pushed(guarded.classifier, targets))
    assert sum(verdict.p_value <= RATE for verdict in oblivious) >= 5
    advanced: list[int] = []
    outcome = WHITE_BOX[name](guarded, targets, RATE, BUDGET, 0, advanced.append)
    assert through(outcome).sum() >= 4
    check_honest(outcome, guarded, targets, BUDGET)
    assert sum(advanced) == BUDGET.steps
    assert outcome.curve is not None and len(outcome.curve) == BUDGET.steps
    assert outcome.curve[-3:].mean() < outcome.curve[0] / 2
    assert (outcome.spent[through(outcome)] >= 1).all() and (outcome.spent <= BUDGET.steps).all()


@pytest.mark.parametrize("name", ["selective", "minimum"])
def test_of_l2_each_image_keeps_to_the_ball(name: str, guarded: Detector, targets: Tensor) -> None:
    budget = Budget("L2", 2.0, steps=20)
    outcome = WHITE_BOX[name](guarded, targets, RATE, budget, 0)
    check_honest(outcome, guarded, targets, budget)
    assert through(outcome).sum() >= 4


def test_the_minimum_is_nearer_than_what_looks_cleanest(guarded: Detector, targets: Tensor) -> None:
    cleanest, nearest = (WHITE_BOX[name](guarded, targets, RATE, BUDGET, 0) for name in ("selective", "minimum"))
    both = through(cleanest) & through(nearest)
    ball = Ball(targets, BUDGET)
    assert ball.distance(nearest.images)[both].mean() < 0.8 * ball.distance(cleanest.images)[both].mean()


def test_the_minimum_of_the_widest_ball_is_through_where_narrow_balls_are(guarded: Detector, targets: Tensor) -> None:
    narrow = Budget("Linf", 14 / 255, steps=40)
    there = through(WHITE_BOX["minimum"](guarded, targets, RATE, narrow, 0))
    wide = WHITE_BOX["minimum"](guarded, targets, RATE, replace(narrow, eps=64 / 255, restarts=2), 0)
    within = Ball(targets, narrow).distance(wide.images) <= narrow.eps + 1e-6
    assert 0 < there.sum() < len(targets)
    assert (through(wide) & within).sum() >= there.sum()


def test_the_minimum_is_content_with_a_grey_level_and_seeks_below_what_it_found(
    guarded: Detector, targets: Tensor
) -> None:
    ball, rows = Ball(targets, BUDGET), torch.arange(len(targets))
    method = Minimum(Target(guarded, targets, RATE), ball, 0)
    sent = ball.sent(targets + torch.tensor([1, 2, 3, 3, 3, 1]).view(-1, 1, 1, 1) / 255)
    below = torch.tensor([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0])
    look = Look(below, sent, below.double(), sent, below.double())
    assert method.enough(rows, sent, look).tolist() == [True, False, False, False, False, False]
    method.direction(rows, sent, look, 0.0)
    nearer = ball.sent(ball.project(torch.ones_like(targets), method.radius(rows)))
    levels = (ball.distance(nearer) * 255).round().tolist()
    assert levels[1:4] == [1, 2, 2] and min(levels[4:]) > 3


def test_the_same_seed_gives_the_same_and_more_restarts_never_less(guarded: Detector, targets: Tensor) -> None:
    tight = Budget("Linf", 4 / 255, steps=6)
    one, same = (WHITE_BOX["selective"](guarded, targets, RATE, tight, 3) for _ in range(2))
    assert torch.equal(one.images, same.images) and torch.equal(one.spent, same.spent)
    more = WHITE_BOX["selective"](guarded, targets, RATE, replace(tight, restarts=6), 3)
    assert (more.fools | ~one.fools).all()
    assert (more.p_value[one.fools] >= one.p_value[one.fools]).all()
    assert more.curve is not None and one.curve is not None and torch.equal(more.curve, one.curve)
    assert (through(more) | ~through(one)).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_starts_lie_within_the_budget_and_two_seeds_differ(norm: str, guarded: Detector, targets: Tensor) -> None:
    ball = Ball(targets, Budget("L2", 1.0, 5) if norm == "L2" else Budget("Linf", 8 / 255, 5))
    target, rows = Target(guarded, targets, RATE), torch.arange(len(targets))
    assert list(STARTS) == ["itself", "joint", "cw", "square", "noise"]
    state = torch.get_rng_state()
    begun = [start(target, ball, rows, restart, seed=1)[0] for restart in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    for images in begun:
        assert (ball.distance(images) <= ball.budget.eps + 1e-5).all()
    assert torch.equal(begun[0], targets)
    witness = guarded.extractor.witness
    assert witness is not None
    fooled = (guarded.classifier(begun[1]).argmax(1) != target.labels) & (witness(begun[1]).argmax(1) != target.labels)
    plain = ball.project(tiny_guard.pushed(guarded.classifier, targets, eps=8 / 255))
    assert fooled.sum() >= (witness(plain).argmax(1) != target.labels).sum()
    assert not torch.equal(begun[4], begun[5]) and not torch.equal(begun[4], start(target, ball, rows, 4, seed=2)[0])


def test_a_ball_that_is_round_keeps_eight_bits_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    for eps in (0.02, 0.1, 0.5, 3.0):
        ball = Ball(tiny.images(8, seed=1).images, Budget("L2", eps, 1))
        sent = ball.sent(ball.draw(generator, edge=True))
        assert torch.equal((sent * 255).round() / 255, sent)
        assert (ball.distance(sent) <= eps + 1e-6).all()
    assert (ball.distance(sent) > 0.9 * 3.0).float().mean() > 0.5  # and not far inside, where pixels have room
    odd = Ball(tiny.images(8, seed=1).images, Budget("Linf", 2.5 / 255, 1))
    assert (odd.distance(odd.sent(odd.draw(generator, edge=True))) * 255).round().tolist() == [2] * 8


def test_the_detector_is_asked_only_about_images_that_fool(
    guarded: Detector, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = Target.ask

    def counted(self: Target, look: object, images: Tensor, which: Tensor) -> None:
        asked.append(int(which.sum()))
        ask(self, look, images, which)  # type: ignore[arg-type]

    monkeypatch.setattr(Target, "ask", counted)
    WHITE_BOX["selective"](guarded, targets, RATE, Budget("Linf", 0.4 / 255, steps=3), 0)
    assert asked == [0, 0, 0]  # nothing moves, so nothing fools


def test_a_cascade_is_attacked_by_its_glance_too(tiny_classifier: Classifier) -> None:
    detector = tiny_cascade.detector(tiny_classifier, views=(1,))
    images = tiny.images(12, seed=6).images
    outcome = WHITE_BOX["selective"](detector, images, RATE, BUDGET, 0)
    check_honest(outcome, detector, images, BUDGET)
    assert through(outcome).sum() >= 9


def test_a_black_box_and_a_hidden_witness_are_refused_by_name(tiny_classifier: Classifier) -> None:
    closed = load_classifier(
        tiny.SPEC.model_copy(update={"source": "python:hidden:net"}), state_dict=hidden.weights(), allow=("hidden",)
    )
    images = tiny.images(2).images
    for detector, told in (
        (tiny_cascade.detector(closed, witness=tiny_classifier), "white box refused: classifier 'python:hidden:net'"),
        (tiny_cascade.detector(tiny_classifier, witness=closed), "white box refused: witness 'python:hidden:net'"),
    ):
        with pytest.raises(ConfigError, match=told):
            WHITE_BOX["selective"](detector, images, RATE, BUDGET, 0)


def test_answers_alone_are_attacked_where_the_net_has_gradients(tiny_classifier: Classifier) -> None:
    detector = tiny_cascade.detector(tiny_classifier, witness=smooth.classifier(), black_box=True)
    images = tiny.images(4, seed=6).images
    outcome = WHITE_BOX["features"](detector, images, RATE, BUDGET, 0)
    check_honest(outcome, detector, images, BUDGET)


def test_no_images_and_images_of_another_size(guarded: Detector) -> None:
    outcome = WHITE_BOX["selective"](guarded, torch.zeros(0, 3, 16, 16), RATE, BUDGET, 0)
    assert len(outcome.images) == len(outcome.fools) == 0
    with pytest.raises(ImageShapeError, match="16×16"):
        WHITE_BOX["selective"](guarded, torch.zeros(1, 3, 8, 8), RATE, BUDGET, 0)

"""The theorem of `detector.scoring.patches`, against patches in many places: at random, and learnt."""

from __future__ import annotations

from itertools import product

import pytest
import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration
from detector.scoring.patches import Patches, answers_under, bound, contradiction, score_of
from detector.settings import PatchSettings

SETTINGS = PatchSettings(area=0.06, masks=16)  # 4×4 of 16×16


@pytest.fixture(scope="module")
def covering() -> Covering:
    return Covering.of((tiny.SIDE, tiny.SIDE), SETTINGS)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tiny.images(60, seed=31).images


def patched(image: Tensor, top: int, left: int, colours: Tensor) -> Tensor:
    """(3, H, W) and (n, 3, s, s) → (n, 3, H, W)."""
    copies = image.repeat(len(colours), 1, 1, 1)
    side = colours.shape[-1]
    copies[..., top : top + side, left : left + side] = colours
    return copies


def predicted(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(images).argmax(1)


def colours_against(classifier: Classifier, image: Tensor, top: int, left: int, side: int, label: int) -> Tensor:
    """Random ones, and some that the gradient makes of them."""
    colours = torch.rand(4, 3, side, side).round()
    learnt = colours.clone()
    for _ in range(6):
        learnt.requires_grad_()
        logits = classifier(patched(image, top, left, learnt))
        (gradient,) = torch.autograd.grad(logits[:, label].sum() - logits.logsumexp(1).sum(), learnt)
        learnt = (learnt.detach() - 0.3 * gradient.sign()).clamp(0, 1)
    return torch.cat([colours, learnt])


def test_no_patch_that_changes_the_answer_scores_below_the_bound(
    tiny_classifier: Classifier, covering: Covering, images: Tensor
) -> None:
    torch.manual_seed(0)
    fooled = 0
    for image in images[:6]:
        label = predicted(tiny_classifier, image[None])
        least = bound(covering, answers_under(covering, tiny_classifier, image[None]), label)
        for top, left in product(range(0, 13, 3), repeat=2):
            colours = colours_against(tiny_classifier, image, top, left, covering.side, int(label))
            attacked = patched(image, top, left, colours)
            said = predicted(tiny_classifier, attacked)
            changed = said != label
            fooled += int(changed.sum())
            scores = score_of(answers_under(covering, tiny_classifier, attacked), said)
            assert (scores[changed] >= least).all()
    assert fooled > 30  # the bound was put to the test


def test_the_bound_is_attained_where_nothing_but_the_patch_speaks(covering: Covering) -> None:
    """It is no looser than it must be: the attacker's best masks say what the clean ones would."""
    torch.manual_seed(0)
    answers = torch.randn(50, len(covering.windows), 5)
    labels = torch.randint(5, (50,))
    least = bound(covering, answers, labels)
    attained = torch.full((50,), torch.inf)
    for masks in covering.around:  # under every mask that does not hide the patch, the attacker says what he likes
        for said in range(5):
            his = torch.full_like(answers, -9.0)
            his[..., said] = 9.0
            his[:, list(masks)] = answers[:, list(masks)]
            scores = score_of(his, torch.full((50,), said))
            attained = torch.where(labels == said, attained, torch.minimum(attained, scores))
    torch.testing.assert_close(attained, least, atol=2e-3, rtol=0)
    assert (attained >= least).all()


def test_of_the_unanimous_the_bound_is_above_nothing() -> None:
    """Where every mask keeps the label, whoever names another is contradicted: the rule of agreement is a case."""
    covering = Covering.of((tiny.SIDE, tiny.SIDE), SETTINGS)
    answers = torch.rand(8, len(covering.windows), 4)
    answers[..., 2] += 1.5
    labels = torch.full((8,), 2)
    assert (bound(covering, answers, labels) > 0).all() and (score_of(answers, labels) < 0).all()
    answers[:, 0, 3] += 9.0
    assert (bound(covering, answers, labels) < 0).all() and (score_of(answers, labels) > 0).all()


def test_contradiction_is_how_far_a_class_lies_below_the_likeliest_other() -> None:
    assert contradiction(torch.tensor([[1.0, 4.0, 3.0]])).tolist() == [[3.0, -1.0, 1.0]]
    assert contradiction(torch.tensor([[2.0, 2.0]])).tolist() == [[0.0, 0.0]]


def test_certificates_and_p_values_are_ranks_among_clean_scores(
    tiny_classifier: Classifier, covering: Covering, images: Tensor
) -> None:
    labels = predicted(tiny_classifier, images)
    answers = answers_under(covering, tiny_classifier, images)
    scores = score_of(answers, labels)
    patches = Patches(covering, Calibration.fit(scores[:40]))
    found = patches.p_value(tiny_classifier, images[40:], labels[40:])
    expected = [(1 + int((scores[:40] >= each).sum())) / 41 for each in scores[40:]]
    assert found.tolist() == pytest.approx(expected)
    certified = patches.certificate(tiny_classifier, images, labels)
    least = bound(covering, answers, labels)
    assert certified.tolist() == pytest.approx([(1 + int((scores[:40] >= each).sum())) / 41 for each in least])
    assert certified.min() < 1  # something is promised of some image


def test_answers_do_not_depend_on_how_images_come_together(
    tiny_classifier: Classifier, covering: Covering, images: Tensor
) -> None:
    together = answers_under(covering, tiny_classifier, images[:40])
    assert together.shape == (40, 16, 4)
    alone = torch.cat([answers_under(covering, tiny_classifier, image[None]) for image in images[:40]])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_more_masks_than_are_looked_at_at_once_are_never_all_in_memory(
    tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    covering, images = Covering.of((16, 16), PatchSettings(area=0.06, masks=36)), tiny.images(3, seed=8).images
    expected = answers_under(covering, tiny_classifier, images)
    seen: list[int] = []
    stack = torch.stack

    def stacked(tensors: list[torch.Tensor], *more: int) -> torch.Tensor:
        seen.append(len(tensors))
        return stack(tensors, *more)

    monkeypatch.setattr("detector.scoring.patches.AT_ONCE", 10)
    monkeypatch.setattr(torch, "stack", stacked)
    found = answers_under(covering, tiny_classifier, images)
    assert (found - expected).abs().max() < 1e-4 and max(seen) <= 10

"""What learned masks promise: the area asked for, the planted evidence found, one row never touching another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.sources import Net
from detector.errors import HeatmapError, NoGradientError, NonFiniteLogitsError
from detector.heatmaps import MaskHeatmap, extremal, meaningful
from detector.heatmaps.masks import SmoothMax, level_of, level_set, rank_term
from detector.heatmaps.reference import levels, seen

SIDE = 32
PATCH = (slice(6, 16), slice(14, 24))  # a tenth of the image


class ReadsOnePatch(nn.Module):
    """Class 1 is the contrast inside the patch; nothing else is looked at."""

    def forward(self, x: Tensor) -> Tensor:
        patch = x[:, :, *PATCH]
        contrast = patch.diff(dim=2).abs().mean((1, 2, 3)) + patch.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack([torch.zeros_like(contrast), 20 * contrast], 1)


def guarded(module: nn.Module, side: int = SIDE, classes: int = 2) -> Classifier:
    spec = ClassifierSpec(
        source="python:tiny:net", input_size=(side, side), classes=tuple(f"class {index}" for index in range(classes))
    )
    return Classifier(spec, Net(module.eval(), embeddable=True, identity="planted"))


@pytest.fixture
def noise() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tiny.classifier()


@pytest.fixture
def images() -> Tensor:
    return tiny.images(6).images


def planted() -> Tensor:
    truth = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    truth[PATCH] = True
    return truth


def overlap(masks: Tensor) -> Tensor:
    """Intersection over union of the masks, cut at the patch's size, with the patch."""
    flat, truth = masks.flatten(1), planted().flatten()
    chosen = flat >= flat.topk(int(truth.sum()), dim=1).values[:, -1:]
    return (chosen & truth).sum(1) / (chosen | truth).sum(1)


# --- planted evidence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["preserve", "delete", "dual"])
def test_an_extremal_mask_covers_the_patch_that_is_read(objective: Any, noise: Tensor) -> None:
    found = extremal(guarded(ReadsOnePatch()), noise, torch.ones(3, 1, dtype=torch.long), objective=objective)
    assert overlap(found.masks[:, 0, 0]).min() >= 0.6


@pytest.mark.parametrize("objective", ["delete", "preserve"])
def test_a_meaningful_mask_covers_the_patch_that_is_read(objective: Any, noise: Tensor) -> None:
    found = meaningful(guarded(ReadsOnePatch()), noise, torch.ones(3, 1, dtype=torch.long), objective=objective)
    assert overlap(found.masks[:, 0, 0]).min() >= 0.6


def test_under_the_papers_blurs_too(noise: Tensor) -> None:
    found = extremal(guarded(ReadsOnePatch()), noise, torch.ones(3, 1, dtype=torch.long), reference="blurs")
    assert overlap(found.masks[:, 0, 0]).min() >= 0.6


def test_the_patch_kept_keeps_the_class_and_taken_away_loses_it(noise: Tensor) -> None:
    found = extremal(guarded(ReadsOnePatch()), noise, torch.ones(3, 1, dtype=torch.long), areas=(0.2,))
    assert (found.kept[:, 0, 0] > 0.8 * found.logits[:, 1]).all()
    assert (found.deleted[:, 0, 0] < 0.2 * found.logits[:, 1]).all()


# --- areas and range ---------------------------------------------------------------------------------------------


def test_each_area_is_the_one_asked_for(classifier: Classifier, images: Tensor) -> None:
    areas = (0.02, 0.1, 0.35, 0.9)
    found = extremal(classifier, images, torch.tensor([[0, 3]]).expand(6, 2), areas=areas)
    assert found.masks.shape == (6, 2, 4, 16, 16)
    torch.testing.assert_close(found.masks.mean((3, 4)), torch.tensor(areas).expand(6, 2, 4), rtol=0.02, atol=0)
    torch.testing.assert_close(found.maps, found.masks.mean(2))


@pytest.mark.parametrize("method", [extremal, meaningful])
@pytest.mark.parametrize("reference", ["blur", "blurs", "mean", "noise", 0.5])
def test_masks_stay_between_0_and_1(
    method: Callable[..., MaskHeatmap], reference: Any, classifier: Classifier, images: Tensor
) -> None:
    found = method(classifier, images, reference=reference)
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1
    assert found.masks.max() > found.masks.min() + 0.1


def test_sides_that_no_grid_divides_keep_their_area() -> None:
    images = torch.rand(2, 3, 19, 23, generator=torch.Generator().manual_seed(0))
    field = SmoothMax((19, 23), 7, 0.7, images.device)(torch.randn(2, 7, 7, generator=torch.Generator().manual_seed(1)))
    areas = torch.tensor([0.05, 0.5])
    masks = level_set(field, level_of(field, areas, 1.0), 1.0)
    torch.testing.assert_close(masks.mean((1, 2)), areas, rtol=1e-3, atol=0)


def test_the_rank_term_is_0_for_a_binary_mask_of_the_area_only() -> None:
    binary = torch.zeros(1, 10, 10)
    binary[0, :2] = 1
    assert rank_term(binary, torch.tensor([0.2])) == 0
    assert rank_term(binary, torch.tensor([0.3])) == pytest.approx(0.1)
    assert rank_term(torch.full((1, 10, 10), 0.2), torch.tensor([0.2])) > 0.1


def test_the_rank_weight_makes_masks_more_binary(classifier: Classifier, images: Tensor) -> None:
    soft, hard = (extremal(classifier, images, binary=weight).masks for weight in (0.0, 100.0))
    assert (hard * (1 - hard)).mean() < (soft * (1 - soft)).mean()


# --- rows do not touch each other --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [extremal, meaningful])
def test_permuting_images_permutes_masks(
    method: Callable[..., MaskHeatmap], classifier: Classifier, images: Tensor
) -> None:
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(method(classifier, images[order]).masks, method(classifier, images).masks[order])


def test_areas_asked_together_equal_areas_asked_alone(classifier: Classifier, images: Tensor) -> None:
    together = extremal(classifier, images, areas=(0.05, 0.2)).masks
    alone = [extremal(classifier, images, areas=(area,)).masks for area in (0.05, 0.2)]
    torch.testing.assert_close(together, torch.cat(alone, 2))


@pytest.mark.parametrize("method", [extremal, meaningful])
def test_the_chunk_changes_nothing(method: Callable[..., MaskHeatmap], classifier: Classifier, images: Tensor) -> None:
    torch.testing.assert_close(method(classifier, images, chunk=2).masks, method(classifier, images).masks)


@pytest.mark.parametrize("method", [extremal, meaningful])
def test_images_stop_early_by_themselves(
    method: Callable[..., MaskHeatmap], classifier: Classifier, images: Tensor
) -> None:
    grey = torch.full_like(images[:1], 0.5)  # its blur is itself: nothing to gain
    found = method(classifier, torch.cat([images, grey]), steps=60, patience=5, tolerance=0.02)
    assert found.steps[-1] < 60
    assert found.steps.unique().numel() > 1
    torch.testing.assert_close(
        found.masks[:-1], method(classifier, images, steps=60, patience=5, tolerance=0.02).masks, atol=1e-3, rtol=1e-3
    )


def test_the_seed_decides_the_noise_reference(classifier: Classifier, images: Tensor) -> None:
    first, again, other = (extremal(classifier, images, reference="noise", seed=seed).masks for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("reference", ["blur", "blurs"])
def test_what_is_seen_goes_from_the_reference_to_the_image(reference: Any, noise: Tensor) -> None:
    ladder = levels(noise, reference)
    masks = torch.tensor([0.0, 0.4, 1.0])[:, None, None].expand(3, SIDE, SIDE)
    pictures = seen(ladder, masks)
    torch.testing.assert_close(pictures[0], ladder[0, 0])
    torch.testing.assert_close(pictures[2], noise[2])
    detail = [each.diff(dim=1).abs().mean() for each in (ladder[1, 0], pictures[1], noise[1])]
    assert detail[0] < detail[1] < detail[2]


def test_half_a_mask_blurs_half_as_widely_where_the_reference_is_the_papers(noise: Tensor) -> None:
    """Each level stands for a blur of its own: a mask between two of them mixes these two alone."""
    ladder = levels(noise, "blurs")
    at_third = torch.full((3, SIDE, SIDE), 3 / 7)
    torch.testing.assert_close(seen(ladder, at_third), ladder[:, 3])
    between = seen(ladder, at_third + 0.5 / 7)
    torch.testing.assert_close(between, (ladder[:, 3] + ladder[:, 4]) / 2)
    wide = [each.diff(dim=-1).abs().mean() for each in ladder[0]]
    assert wide == sorted(wide)


# --- how good ----------------------------------------------------------------------------------------------------


def test_more_of_the_logit_is_kept_than_by_random_smooth_masks(classifier: Classifier, images: Tensor) -> None:
    found = extremal(classifier, images, areas=(0.2,))
    lattice = torch.randn(32, 8, 8, generator=torch.Generator().manual_seed(0))
    field = SmoothMax((16, 16), 8, 0.7, images.device)(lattice)
    random = level_set(field, level_of(field, torch.full((32,), 0.2), 1.0), 1.0)  # (32, 16, 16)
    predicted = found.logits.argmax(1)
    for image, label, kept in zip(images, predicted, found.kept[:, 0, 0], strict=True):
        means = image.mean((1, 2), keepdim=True)
        others = classifier(means + (image - means) * random[:, None])[:, label]
        assert kept > others.mean()


def test_more_steps_never_keep_less(classifier: Classifier, images: Tensor) -> None:
    few, many = (extremal(classifier, images, steps=steps).kept for steps in (1, 12))
    assert (many >= few - 1e-3).all()
    assert many.mean() > few.mean()


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"areas": (0.1, 0.0)}, r"areas: expected a share in \(0, 1\).*got 0.0"),
        ({"areas": (1.0,)}, r"areas: .*got 1.0"),
        ({"areas": ()}, "areas: .*got none"),
        ({"objective": "keep"}, "objective: expected 'preserve', 'delete' or 'dual', got 'keep'"),
        ({"reference": "black"}, "reference: expected 'mean', 'blur', 'noise' or a grey level"),
        ({"reference": 1.5}, "reference: .*got 1.5"),
        ({"grid": 17}, r"grid: expected an integer in 2 … 16, got 17"),
        ({"spread": 0.0}, "spread: expected a number above 0"),
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"rate": -1.0}, "rate: expected a number above 0"),
        ({"patience": 0}, "patience: expected an integer >= 1"),
        ({"tolerance": -0.1}, "tolerance: expected a number >= 0"),
        ({"chunk": 0}, "chunk: expected an integer >= 1"),
    ],
)
def test_settings_out_of_range_are_named(
    settings: dict[str, Any], told: str, classifier: Classifier, images: Tensor
) -> None:
    with pytest.raises(HeatmapError, match=told):
        extremal(classifier, images, **settings)


def test_meaningful_settings_out_of_range_are_named(classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(HeatmapError, match="objective: expected 'delete' or 'preserve', got 'dual'"):
        meaningful(classifier, images, objective="dual")  # type: ignore[arg-type]
    with pytest.raises(HeatmapError, match="jitter: expected an integer in 0 … 15"):
        meaningful(classifier, images, jitter=16)


def test_nan_logits_name_the_image() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.mean((1, 2, 3)), torch.where(x.amax((1, 2, 3)) > 0.9, torch.nan, 1.0)], 1)

    images = torch.full((3, 3, SIDE, SIDE), 0.3)
    module = guarded(Breaks())
    images[1] = 1.0
    with pytest.raises(NonFiniteLogitsError, match=r"images \[1\] of a batch of 3"):
        extremal(module, images)


def test_a_classifier_without_gradients_is_told_what_to_use() -> None:
    classifier = guarded(ReadsOnePatch())
    classifier.differentiable = False
    with pytest.raises(NoGradientError, match="'occlusion' or 'rise'"):
        extremal(classifier, torch.rand(1, 3, SIDE, SIDE))

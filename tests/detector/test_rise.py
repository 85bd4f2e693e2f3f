"""RISE finds planted evidence, and a map depends on nothing but its image and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from detector.classifier import Classifier
from detector.classifier.black_box import BlackBox
from detector.errors import HeatmapError
from detector.heatmaps import rise

ALL = torch.arange(len(tiny.CLASSES))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tiny.classifier()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tiny.images(5, seed=3).images


def every(images: Tensor) -> Tensor:
    return ALL.expand(len(images), len(ALL))


def reads_one_patch(images: Tensor) -> Tensor:
    """Probability of class 1: the redness of rows 4-7, columns 8-11."""
    red = images[:, 0, 4:8, 8:12].mean((1, 2))
    return torch.stack([1 - red, red], 1)


PATCH = torch.zeros(16, 16, dtype=torch.bool)
PATCH[4:8, 8:12] = True


@pytest.mark.parametrize("reference", ["mean", "blur", 0.0])
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_the_planted_patch_stands_out(reference: Any, keep: float) -> None:
    scene = torch.full((2, 3, 16, 16), 0.1)
    scene[:, 0, 4:8, 8:12] = 1
    box = BlackBox(reads_one_patch, ("nothing", "red"), (16, 16))
    settings: dict[str, Any] = {"samples": 256, "keep": keep, "reference": reference}
    red = rise(box, scene, torch.ones(2, 1, dtype=torch.long), **settings).maps[:, 0]
    contrast = red - red.median()
    away = torch.ones(16, 16, dtype=torch.bool)
    away[1:11, 5:15] = False  # a cell and more away
    assert (contrast[:, PATCH].min() > 2 * contrast[:, away].abs().max()).all()
    nothing = rise(box, scene, torch.zeros(2, 1, dtype=torch.long), **settings).maps[:, 0]
    torch.testing.assert_close(nothing, 1 - red)  # probabilities of the two classes


def test_a_patch_at_every_place_is_found_at_its_place(classifier: Classifier) -> None:
    scene = tiny.images(24, seed=11)
    maps = rise(classifier, scene.images, scene.labels[:, None], samples=512).maps[:, 0]
    rows, columns = torch.arange(16)[:, None], torch.arange(16)
    inside = torch.stack(
        [
            (rows >= top) & (rows < top + tiny.PATCH) & (columns >= left) & (columns < left + tiny.PATCH)
            for top, left in scene.corners.tolist()
        ]
    )
    peaks = maps.flatten(1).argmax(1)
    hits = inside.flatten(1).gather(1, peaks[:, None]).float().mean()
    assert hits > 0.8  # a quarter by chance


def as_published(image: Tensor, score: Callable[[Tensor], Tensor], samples: int, keep: float, seed: int) -> Tensor:
    """Petsiuk et al. 2018, equation 6, word by word: 4 × 4 cells on 16 × 16 pixels, black where hidden."""
    generator = torch.Generator().manual_seed(seed)
    small = (torch.rand(samples, 1, 4, 4, generator=generator) < keep).float()
    large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    corners = torch.randint(4, (samples, 2), generator=generator).tolist()
    masks = torch.cat([mask[:, y : y + 16, x : x + 16] for mask, (y, x) in zip(large, corners, strict=True)])
    return torch.einsum("n,nhw->hw", score(image * masks[:, None]), masks) / (samples * keep)


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_maps_tend_to_the_published_ones_sooner(keep: float) -> None:
    def score(images: Tensor) -> Tensor:  # two patches that need each other, and one that speaks against both
        first, second, third = (images[:, 0, 4:8, x : x + 4].mean((1, 2)) for x in (0, 6, 12))
        return torch.sigmoid(8 * first * second - 3 * third)

    image = torch.ones(1, 3, 16, 16)
    box = BlackBox(lambda some: torch.stack([1 - score(some), score(some)], 1), ("no", "yes"), (16, 16))

    def ours(samples: int, seed: int) -> Tensor:
        classes = torch.tensor([[1]])
        found = rise(box, image, classes, samples=samples, cells=4, keep=keep, reference=0.0, seed=seed)
        return found.maps[0, 0]

    limit = as_published(image, score, 30_000, keep, 0)
    torch.testing.assert_close(ours(10_000, 1), limit, atol=0.01, rtol=0)

    def error(maps: list[Tensor]) -> float:
        return float((torch.stack(maps) - limit).square().mean())

    published = error([as_published(image, score, 256, keep, seed) for seed in range(1, 9)])
    assert error([ours(256, seed) for seed in range(1, 9)]) < published / 4


def test_maps_are_mean_probabilities(classifier: Classifier, images: Tensor) -> None:
    heatmap = rise(classifier, images, every(images), samples=64)
    assert heatmap.maps.shape == (5, 4, 16, 16)
    torch.testing.assert_close(heatmap.maps.sum(1), torch.ones(5, 16, 16))
    torch.testing.assert_close(heatmap.logits, classifier(images))


def test_a_batch_of_n_equals_n_batches_of_one(classifier: Classifier, images: Tensor) -> None:
    together = rise(classifier, images, samples=64).maps
    torch.testing.assert_close(together, torch.cat([rise(classifier, one[None], samples=64).maps for one in images]))


def test_permuting_images_permutes_maps(classifier: Classifier, images: Tensor) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    straight, permuted = (rise(classifier, some, samples=64).maps for some in (images, images[order]))
    torch.testing.assert_close(permuted, straight[order])


def test_all_classes_at_once_equal_one_class_at_a_time(classifier: Classifier, images: Tensor) -> None:
    together = rise(classifier, images, every(images), samples=64).maps
    alone = [rise(classifier, images, torch.full((5, 1), index), samples=64).maps for index in ALL.tolist()]
    torch.testing.assert_close(together, torch.cat(alone, 1))


def test_no_classes_means_the_class_predicted_on_the_image_itself(classifier: Classifier, images: Tensor) -> None:
    predicted = classifier(images).argmax(1, keepdim=True)
    assert torch.equal(rise(classifier, images, samples=16).maps, rise(classifier, images, predicted, samples=16).maps)


def test_maps_follow_the_seed_alone(classifier: Classifier, images: Tensor) -> None:
    torch.manual_seed(5)
    first = rise(classifier, images, samples=64, seed=3).maps
    torch.manual_seed(6)
    assert torch.equal(first, rise(classifier, images, samples=64, seed=3).maps)
    assert not torch.allclose(first, rise(classifier, images, samples=64, seed=4).maps)


def test_chunks_bound_the_batch_and_change_nothing(images: Tensor) -> None:
    sizes: list[int] = []

    def predict(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return reads_one_patch(some)

    box = BlackBox(predict, ("nothing", "red"), (16, 16))
    whole = rise(box, images, samples=33, chunk=1000).maps
    assert sizes == [5, 33 * 5]
    sizes.clear()
    torch.testing.assert_close(rise(box, images, samples=33, chunk=11).maps, whole)
    assert max(sizes) <= 11
    assert sum(sizes) == 34 * 5
    torch.testing.assert_close(rise(box, images, samples=33, chunk=1).maps, whole)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_give_finite_maps(samples: int, classifier: Classifier, images: Tensor) -> None:
    for keep in (0.1, 0.5):
        maps = rise(classifier, images, every(images), samples=samples, keep=keep).maps
        torch.testing.assert_close(maps.sum(1), torch.ones(5, 16, 16))
        assert maps.abs().max() < 3  # off, as few samples are, and finite


def test_an_odd_size_is_covered(images: Tensor) -> None:
    box = BlackBox(lambda some: torch.full((len(some), 2), 0.5), ("a", "b"), (13, 10))
    maps = rise(box, images[:, :, :13, :10], samples=16, cells=4).maps
    torch.testing.assert_close(maps, torch.full((5, 1, 13, 10), 0.5))  # nothing depends on any pixel


def test_an_empty_batch_gives_no_maps(classifier: Classifier, images: Tensor) -> None:
    assert rise(classifier, images[:0], samples=4).maps.shape == (0, 1, 16, 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 0},
        {"samples": 1.5},
        {"cells": 1},
        {"cells": 17},
        {"keep": 0.0},
        {"keep": 1},
        {"reference": "black"},
        {"reference": 1.5},
        {"chunk": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(HeatmapError, match=f"^{next(iter(settings))}: expected .* got"):
        rise(classifier, images, **settings)

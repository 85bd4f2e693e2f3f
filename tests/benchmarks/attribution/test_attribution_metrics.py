"""Measures of heatmaps on classifiers and maps where the answer is known."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from torch import Tensor

from benchmarks.attribution.metrics import (
    answers_through,
    area_under,
    best_first,
    blur,
    first_pixels,
    randomised,
    rearranged,
    resized,
    smooth_noise,
    spearman,
    top_pixels,
    wilson,
)
from detector.classifier import Classifier
from detector.heatmaps import gradient


def patch_logits(images: Tensor) -> Tensor:
    """Two classes; the first has the sum of the 2 × 2 pixels in the upper left corner, the other 0."""
    corner = images[:, :, :2, :2].mean(1).sum((1, 2))
    return torch.stack([corner, torch.zeros_like(corner)], 1)


@pytest.fixture
def patch() -> Tensor:
    """(1, 4, 4): the perfect map of `patch_logits`."""
    perfect = torch.zeros(1, 4, 4)
    perfect[:, :2, :2] = 1
    return perfect


def insertion(maps: Tensor) -> float:
    white, black = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 1, 1)
    masks = first_pixels(best_first(maps), 4)
    return float(area_under(answers_through(patch_logits, white, black, masks, torch.tensor([0])).probability))


def test_insertion_of_the_perfect_and_the_worst_map(patch: Tensor) -> None:
    sure = 1 / (1 + math.exp(-4))
    assert insertion(patch) == pytest.approx((0.5 + sure) / 2 / 4 + 3 / 4 * sure)  # all of it after a quarter
    assert insertion(-patch) == pytest.approx(3 / 4 * 0.5 + (0.5 + sure) / 2 / 4)  # nothing before the last quarter
    anything = torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(0))
    assert all(insertion(-patch) < insertion(each[None]) < insertion(patch) for each in anything)


def test_a_mask_shows_the_image_where_it_is_true_whatever_the_chunk(patch: Tensor) -> None:
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    cover = images.mean((2, 3), keepdim=True)
    masks = torch.stack([torch.ones(4, 4), patch[0], 1 - patch[0], torch.zeros(4, 4)]).bool().expand(3, -1, -1, -1)
    classes = torch.tensor([0, 1, 0])
    seen = answers_through(patch_logits, images, cover, masks, classes)
    whole, covered = (
        patch_logits(each).gather(1, classes[:, None])[:, 0] for each in (images, cover.expand_as(images))
    )
    expected = torch.stack([whole, whole, covered, covered], 1)
    torch.testing.assert_close(seen.logit, expected)
    one_by_one = answers_through(patch_logits, images, cover, masks, classes, chunk=1)
    torch.testing.assert_close(seen.probability, one_by_one.probability)


def test_pixels_come_largest_first() -> None:
    maps = torch.tensor([[[0.1, 0.9], [-0.5, 0.3]], [[4.0, 3.0], [2.0, 1.0]]])
    assert best_first(maps).tolist() == [[[2, 0], [3, 1]], [[0, 1], [2, 3]]]
    assert first_pixels(best_first(maps), 2)[0].int().tolist() == [[[0, 0], [0, 0]], [[0, 1], [0, 1]], [[1, 1], [1, 1]]]


def test_equal_pixels_come_in_random_order() -> None:
    places = best_first(torch.zeros(1, 32, 32))
    assert sorted(places.flatten().tolist()) == list(range(32 * 32))
    assert abs(float(spearman(places.float(), torch.arange(32.0 * 32).view(1, 32, 32)))) < 0.1  # not line by line
    assert not torch.equal(places, best_first(torch.zeros(1, 32, 32), seed=1))


def test_top_pixels_are_as_many_for_every_map() -> None:
    maps = torch.stack([torch.zeros(10, 10), torch.rand(10, 10), torch.eye(10)])
    top = top_pixels(maps, 0.1)
    assert top.sum((1, 2)).tolist() == [10, 10, 10]
    assert torch.equal(top[2], torch.eye(10).bool())


def test_a_rearranged_mask_keeps_its_values_in_the_order_of_the_map() -> None:
    mask = torch.tensor([[[0.0, 1.0], [0.2, 0.5]]])
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]]]])
    moved = rearranged(mask, maps)
    assert torch.equal(moved, torch.tensor([[[[0.0, 0.2], [0.5, 1.0]], [[1.0, 0.5], [0.2, 0.0]]]]))


def test_a_soft_mask_mixes_image_and_cover(patch: Tensor) -> None:
    images, half = torch.ones(1, 3, 4, 4), 0.5 * patch[:, None]
    seen = answers_through(patch_logits, images, torch.zeros(1, 3, 1, 1), half, torch.tensor([0]))
    assert seen.logit.tolist() == [[pytest.approx(2.0)]]  # half of the sum of four white pixels


def test_area_under_a_straight_line_and_a_constant() -> None:
    curves = torch.stack([torch.linspace(0, 1, 17), torch.full((17,), 0.3)])
    assert area_under(curves).tolist() == pytest.approx([0.5, 0.3])


def test_rank_correlation() -> None:
    line = torch.arange(12.0).view(1, 3, 4)
    assert float(spearman(line, line.exp())) == pytest.approx(1)
    assert float(spearman(line, -(line**3))) == pytest.approx(-1)
    ties = torch.tensor([[1.0, 2.0, 2.0, 3.0]])  # ranks 1, 2.5, 2.5, 4
    assert float(spearman(ties, torch.tensor([[1.0, 3.0, 2.0, 4.0]]))) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman(torch.ones(1, 3, 4), line).isnan().all()
    noise = torch.rand(2, 200, 100, generator=torch.Generator().manual_seed(0))
    assert abs(float(spearman(noise[:1], noise[1:]))) < 0.03


def test_a_share_of_all_images_is_not_certain() -> None:
    assert wilson(32, 32) == pytest.approx((0.893, 1), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0, 0.278), abs=1e-3)
    assert wilson(50, 100) == pytest.approx((0.404, 0.596), abs=1e-3)


def test_blur_keeps_what_is_even_and_hides_what_is_fine() -> None:
    torch.testing.assert_close(blur(torch.full((1, 3, 16, 16), 0.3), 8.0), torch.full((1, 3, 16, 16), 0.3))
    checks = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().expand(1, 3, -1, -1)
    torch.testing.assert_close(blur(checks, 2.0), torch.full_like(checks, 0.5), atol=0.01, rtol=0)


def test_noise_is_smooth_over_sigma_and_alike_everywhere() -> None:
    noise = smooth_noise(400, (16, 20), 2.0, seed=3)
    assert noise.shape == (400, 16, 20)
    deviation = noise.std(0)
    assert deviation.max() < 1.3 * deviation.min()  # borders as the middle

    def correlation(distance: int) -> float:
        return float((noise[:, :, distance:] * noise[:, :, : 20 - distance]).mean() / noise.square().mean())

    # white noise under a Gaussian of σ has the correlation of one of σ·√2
    assert correlation(2) == pytest.approx(math.exp(-(2**2) / (4 * 2**2)), abs=0.05)
    assert abs(correlation(12)) < 0.05


def test_small_maps_grow_and_right_ones_stay() -> None:
    maps = torch.rand(2, 4, 4)
    assert resized(maps, (4, 4)) is maps
    assert resized(maps, (8, 8)).mean((1, 2)).tolist() == pytest.approx(maps.mean((1, 2)).tolist())


def test_random_weights_keep_their_scale_and_forget_the_task(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    before = {name: value.clone() for name, value in tiny_classifier.state_dict().items()}
    shuffled = randomised(tiny_classifier, tiny_images.images, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in tiny_classifier.state_dict().items())
    weights = shuffled.state_dict()["block3.conv.weight"]
    assert not torch.equal(weights, before["block3.conv.weight"])
    assert float(weights.std()) == pytest.approx(float(before["block3.conv.weight"].std()), rel=0.1)
    with torch.no_grad():
        logits = shuffled(tiny_images.images)
    assert (logits.argmax(1) == tiny_images.labels).float().mean() < 0.6 and logits.std(0).min() > 0
    again = randomised(tiny_classifier, tiny_images.images, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(again(tiny_images.images), logits)
    assert gradient(shuffled, tiny_images.images[:2]).maps.flatten(2).amax(2).min() > 0

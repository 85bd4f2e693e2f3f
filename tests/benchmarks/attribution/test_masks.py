"""The published recipe on the tiny problem, its masks kept on disk, and memory counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from benchmarks.attribution import mask_measures as measures
from benchmarks.attribution.images import Photographs, photograph
from benchmarks.attribution.published_recipe import Pyramid, Recipe, learn
from detector.classifier import Classifier
from detector.heatmaps import input_gradients

FEW = Recipe(steps=150, rate=0.1)


@pytest.fixture
def photographs(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> Photographs:
    images, labels = tiny_images.images[:8], tiny_images.labels[:8]
    return photograph(tiny_classifier, images, torch.arange(8), labels, chunk=8)


def test_a_pyramid_goes_from_the_strongest_blur_to_the_image(tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:2]
    pyramid = Pyramid(images, Recipe(levels=3))
    ends = {share: pyramid(torch.full((2, 16, 16), share)) for share in (0.0, 0.25, 0.5, 1.0)}
    torch.testing.assert_close(ends[1.0], images)
    torch.testing.assert_close(ends[0.25], (ends[0.0] + ends[0.5]) / 2)
    roughness = [each.diff(dim=3).abs().mean() for each in ends.values()]
    assert roughness == sorted(roughness)
    half = torch.ones(2, 16, 16)
    half[:, :8] = 0
    torch.testing.assert_close(pyramid(half), torch.cat([ends[0.0][:, :, :8], images[:, :, 8:]], 2))


def test_a_gradient_says_where_less_blur_changes_the_picture(tiny_images: tiny.TinyImages) -> None:
    pyramid = Pyramid(tiny_images.images[:1], Recipe(levels=3))

    def brightness(masks: Tensor) -> Tensor:
        return pyramid(masks)[:, 0, 5, 5].sum()

    masks = torch.full((1, 16, 16), 0.3, dtype=torch.float32).requires_grad_()
    (slope,) = torch.autograd.grad(brightness(masks), masks)
    step = 0.1 * torch.ones_like(masks)
    with torch.no_grad():
        torch.testing.assert_close(slope.sum(), (brightness(masks + step) - brightness(masks)) / 0.1, atol=1e-4, rtol=0)
    assert slope.count_nonzero() == 1


def test_the_recipe_keeps_what_the_logit_needs_and_nothing_in_particular_without_it() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    needed = torch.zeros(32, 32)
    needed[19:29, 4:14] = 1  # a tenth of the image

    def classify(images: Tensor) -> Tensor:
        lost = ((images - image).square().sum(1) * needed).mean((1, 2))
        return torch.stack([torch.zeros_like(lost), -1000 * lost], 1)

    mask = learn(classify, image, 1, 0.1, FEW)
    assert mask.shape == (32, 32)
    assert mask.min() >= 0 and mask.max() <= 1
    assert float(mask.mean()) == pytest.approx(0.1, abs=0.03)
    assert (mask * needed).sum() > 0.6 * mask.sum()


def test_stored_masks_are_made_once_and_again_for_other_settings(
    tiny_classifier: Classifier, photographs: Photographs, tmp_path: Path
) -> None:
    counted: list[int] = []
    stored = measures.StoredMasks(tiny_classifier, tmp_path, replace(FEW, steps=2))
    assert not stored.has(photographs[:1])
    masks, seconds = stored.get(photographs[:2], counted.append)
    assert counted == [1, 1] and masks.shape == (2, 16, 16) and (seconds > 0).all()
    assert stored.has(photographs[:1]) and not stored.has(photographs[2:3])
    again, same_seconds = stored.get(photographs[:2], counted.append)
    assert torch.equal(again, masks) and torch.equal(seconds, same_seconds)
    assert not measures.StoredMasks(tiny_classifier, tmp_path, replace(FEW, steps=3)).has(photographs[:1])


def test_peak_memory_counts_what_is_held_at_once() -> None:
    with measures.PeakMemory() as counter:
        kept = torch.zeros(1000)  # 4,000 bytes
        for _ in range(3):
            view = (kept + 1)[:10]  # one more at a time, two as the name changes hands
        del view
        kept.add_(1)
    assert counter.peak == 12_000


def test_memory_of_an_input_gradient_is_a_line(tiny_classifier: Classifier, photographs: Photographs) -> None:
    def work(some: Photographs) -> None:
        input_gradients(tiny_classifier, some.pixels, some.classes[:, None])

    held = measures.peaks(work, photographs, (1, 2, 8))
    row, _, deviation = measures.line_through((1, 2, 8), held)
    assert row > photographs.pixels[0].nbytes
    assert deviation < 0.02
    assert measures.line_through((1, 2, 3), (10, 20, 60))[2] > 0.3

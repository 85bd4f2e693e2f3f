"""A bundle that looks for patches: what a detector of it says, and what of it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_bundle import tiny_bundle

from detector.bundle import Bundle, load_bundle, save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError, BundleVersionError, ImageShapeError

SETTINGS = {"area": 0.06, "masks": 16}


@pytest.fixture(scope="module")
def bundle(tiny_classifier: Classifier) -> Bundle:
    plain = tiny_bundle(tiny_classifier)
    return replace(
        plain,
        manifest=plain.manifest.model_copy(update={"patches": SETTINGS}),
        patches={"scores": torch.linspace(-2, 2, 99, dtype=torch.float64)},
    )


def test_it_says_what_was_asked_and_all_else_as_before(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "it.heatward", bundle)
    detector = Detector.from_bundle(tmp_path / "it.heatward", allow=("tiny",))
    images = tiny.images(9, seed=4).images
    plain, asked = detector.detect(images), detector.looking_for_patches().detect(images)
    assert [each.patch for each in plain] == [None] * 9
    assert all(each.patch is not None and 0.01 <= each.patch <= 1 for each in asked)
    nothing = np.zeros(0, np.float32)
    assert [replace(each, patch=None, heatmap=nothing) for each in asked] == [
        replace(each, heatmap=nothing) for each in plain
    ]
    assert detector.looking_for_patches().detect(images[:0]) == []
    assert [each.patch for each in detector.detect(images)] == [None] * 9  # the one that was there is as it was
    assert [each.patch for each in detector.looking_for_patches().in_full().detect(images)] == [
        each.patch for each in asked
    ]


def test_a_certificate_is_of_the_truth_or_of_the_prediction(bundle: Bundle) -> None:
    detector = Detector.assemble(bundle, allow=("tiny",))
    drawn = tiny.images(30, seed=5)
    labels = torch.tensor([each.label for each in detector.detect(drawn.images)])
    of_prediction = detector.certify(drawn.images)
    assert torch.equal(of_prediction, detector.certify(drawn.images, labels))
    false = (labels + 1) % 4  # where the prediction itself counts as false, the image as it is bounds the attacker's
    unflagged = torch.tensor([each.patch for each in detector.looking_for_patches().detect(drawn.images)])
    assert (detector.certify(drawn.images, false) >= unflagged).all()
    with pytest.raises(ImageShapeError):
        detector.certify(drawn.images[..., 1:])


def test_nothing_is_certified_of_what_is_no_image_or_no_label(bundle: Bundle) -> None:
    detector, images = Detector.assemble(bundle, allow=("tiny",)), tiny.images(3, seed=5).images
    for wrong in (images * 255, images - 1, images * torch.nan):
        with pytest.raises(ImageShapeError, match=r"expected values in \[0, 1\]"):
            detector.certify(wrong)
    no_labels: list[Any] = [torch.zeros(2, dtype=torch.long), torch.zeros(3, 1, dtype=torch.long)]
    for labels in [*no_labels, torch.zeros(3), [0, 1, 2]]:
        with pytest.raises(ImageShapeError, match=r"labels: expected one for each of 3 images, .* got"):
            detector.certify(images, labels)
    for label in (-1, 4):
        with pytest.raises(ImageShapeError, match=rf"classes 0 … 3, got 0 … {label}|got {label} … 0"):
            detector.certify(images, torch.tensor([0, 0, label]))
    assert len(detector.certify(images[:0], torch.zeros(0, dtype=torch.long))) == 0


def test_a_bundle_without_its_scores_is_damage(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(tmp_path / "it", bundle)
    (tmp_path / "it" / "patches.safetensors").unlink()
    with pytest.raises(BundleDamagedError, match=r"lacks its file patches\.safetensors"):
        load_bundle(tmp_path / "it")


@pytest.mark.parametrize("scores", [{}, {"scores": torch.zeros(3)}, {"scores": torch.full((99,), torch.nan)}])
def test_scores_that_calibrate_nothing_are_damage(bundle: Bundle, scores: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BundleDamagedError, match="bad patches"):
        Detector.assemble(replace(bundle, patches=scores), allow=("tiny",))


def test_it_must_say_which_masks_its_scores_belong_to(bundle: Bundle) -> None:
    for settings, error in (({"area": 0.06}, BundleVersionError), ({"area": 0.06, "masks": 17}, BundleDamagedError)):
        unclear = bundle.manifest.model_copy(update={"patches": settings})
        with pytest.raises(error, match=r"patches.*masks"):
            Detector.assemble(replace(bundle, manifest=unclear), allow=("tiny",))

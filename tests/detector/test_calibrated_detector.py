"""A detector whose bundle calibrates by group, or estimates a tail: what it says, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_bundle import tiny_bundle

from detector.bundle import EMBEDDED, Bundle, load_bundle, read_manifest, save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError
from detector.scoring.groups import Groups


@pytest.fixture(scope="module")
def bundle(tiny_classifier: Classifier) -> Bundle:
    return tiny_bundle(tiny_classifier)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return tiny.images(120, seed=21).images


def grouped(bundle: Bundle, images: torch.Tensor) -> Bundle:
    """Calibrated by predicted class, on these images."""
    verdicts = Detector.assemble(bundle, allow=("tiny",)).detect(images)
    scores, labels = (np.array([getattr(each, name) for each in verdicts]) for name in ("attack_score", "label"))
    groups = Groups.fit(scores, labels, np.arange(len(labels)), classes=len(tiny.CLASSES), rate=0.05)
    assert len(groups.calibrations) > 1
    manifest = bundle.manifest.model_copy(update={"calibration": {"by": "prediction", "rate": 0.05}})
    return replace(bundle, manifest=manifest, calibration_groups=groups.tensors())


def test_an_image_is_ranked_among_those_of_its_predicted_class(
    bundle: Bundle, images: torch.Tensor, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "grouped.heatward", grouped(bundle, images))
    detector = Detector.from_bundle(tmp_path / "grouped.heatward", allow=("tiny",))
    assert detector.groups is not None
    verdicts = detector.detect(images)
    for name, size in zip(detector.group_names, detector.groups.sizes, strict=True):
        own = sorted(round(each.p_value * (size + 1)) for each in verdicts if each.calibration_group == name)
        assert own == list(range(2, size + 2))  # each of the n is ranked among the n, itself one of them
    assert detector.scarcest.scores.shape == (min(detector.groups.sizes),)
    sizes = dict(zip(detector.group_names, detector.groups.sizes, strict=True))
    assert all(detector.ranked_among(each.label) == sizes[each.calibration_group] for each in verdicts)


def test_groups_of_another_classifier_are_damage(bundle: Bundle, images: torch.Tensor) -> None:
    stored = grouped(bundle, images)
    assert stored.calibration_groups is not None
    fewer = {**stored.calibration_groups, "group_of_class": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(BundleDamagedError, match="of 2 classes, the classifier has"):
        Detector.assemble(replace(stored, calibration_groups=fewer), allow=("tiny",))


def with_scores(bundle: Bundle, scores: torch.Tensor, **calibration: Any) -> Detector:
    manifest = bundle.manifest.model_copy(update={"calibration": calibration})
    return Detector.assemble(replace(bundle, manifest=manifest, calibration_scores=scores), allow=("tiny",))


def test_a_tail_goes_on_where_the_p_value_ends_and_changes_nothing_else(bundle: Bundle, images: torch.Tensor) -> None:
    plain = Detector.assemble(bundle, allow=("tiny",)).detect(images[:8])
    middle = sorted(each.attack_score for each in plain)[4]
    random = torch.Generator().manual_seed(0)
    scores = torch.empty(400, dtype=torch.float64).exponential_(generator=random)
    scores = scores / scores.max() * (middle - 1e-9)  # half of the images score higher than all of them
    without = with_scores(bundle, scores).detect(images[:8])
    found = with_scores(bundle, scores, tail=True).detect(images[:8])
    assert all(each.tail is None for each in without)
    for one, other in zip(without, found, strict=True):
        assert (one.p_value, one.attack_score) == (other.p_value, other.attack_score)
        assert (other.tail is None) == (other.p_value > 1 / 401)
        if other.tail is not None:
            assert 0 < other.tail.low <= other.tail.probability <= 1 / 401
    assert {each.tail is None for each in found} == {True, False}


def test_scores_without_a_tail_serve_all_the_same(bundle: Bundle, images: torch.Tensor) -> None:
    detector = with_scores(bundle, torch.zeros(400, dtype=torch.float64), tail=True)
    assert not any(detector.tails)
    assert detector.detect(images[:1])[0].tail is None


def test_the_embedded_bundle_ranks_among_all_images_and_estimates_a_tail() -> None:
    stored = load_bundle(EMBEDDED)
    assert stored.calibration_groups is None and read_manifest(EMBEDDED).calibration == {"tail": True}
    detector = Detector.assemble(stored)
    assert detector.groups is None and len(detector.tails) == 1 and detector.tails[0] is not None
    assert detector.scarcest is detector.calibration
    assert detector.detect(torch.full((1, 3, 32, 32), 0.5))[0].calibration_group == ""

"""The white box as an attack of a recipe: it passes the bundle that it was made against."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import tiny_red_team
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import ConfigError
from training.attacks.attacks import attack_images, check_attack
from training.config import AttackSpec
from training.redteam import informed as room
from training.redteam.informed import informed

EPS = 32 / 255


@pytest.fixture
def bundle(tmp_path: Path, tiny_classifier: Classifier) -> str:
    path = tmp_path / "tiny.heatward"
    tiny_red_team.bundle_at(path, tiny_classifier)
    return str(path)


def spec(**parameters: object) -> AttackSpec:
    name = "training.redteam.informed:informed"
    return AttackSpec(name=name, label="informed", family="informed", parameters={"trusted": "tiny", **parameters})


def test_it_passes_the_detector_within_its_radius(
    guarded: Detector, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_detector", lambda *_given: guarded)
    labels = guarded.classifier(targets).argmax(1)
    attacked = informed(guarded.classifier.module, targets, labels, "some.heatward", eps=EPS, steps=20, rate=0.2)
    verdicts = guarded.detect(attacked)
    through = [
        verdict.label != label and verdict.p_value > 0.2 for verdict, label in zip(verdicts, labels, strict=True)
    ]
    assert sum(through) >= 4
    assert (attacked - targets).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("wrong", [{"eps": -1.0}, {"eps": 8}, {"rate": 5.0}, {"steps": 0}, {"restarts": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], bundle: str, tiny_classifier: Classifier) -> None:
    pixels = (tiny.images(2, seed=11).images * 255).round().to(torch.uint8)
    labels = torch.zeros(2).long()
    with pytest.raises(ConfigError, match=r"attack 'informed': .*expected eps in \(0, 1\]"):
        attack_images(spec(bundle=bundle, **wrong), tiny_classifier, pixels, labels, seed=0, batch_size=2)


def test_a_recipe_can_name_it(bundle: str, tiny_classifier: Classifier) -> None:
    chosen = spec(bundle=bundle, eps=EPS, steps=4)
    check_attack(chosen, tiny_classifier)
    pixels = (tiny.images(6, seed=11).images * 255).round().to(torch.uint8)
    labels = tiny_classifier(pixels / 255).argmax(1)
    attacked = attack_images(chosen, tiny_classifier, pixels, labels, seed=0, batch_size=6)
    moved = (attacked.int() - pixels.int()).abs()
    assert moved.max() <= 32
    assert moved.max() > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "guess"}, "unknown method 'guess': expected one of selective, orthogonal"),
        ({"bundle": "gone.heatward"}, "gone.heatward"),
        ({"trusted": ""}, 'in the parameters of an attack of `heatward train`: trusted = "tiny"'),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str], said: str, bundle: str, tiny_classifier: Classifier) -> None:
    pixels = (tiny.images(2, seed=11).images * 255).round().to(torch.uint8)
    labels = tiny_classifier(pixels / 255).argmax(1)
    with pytest.raises(ConfigError, match=f"^attack 'informed': .*{said}"):
        attack_images(spec(**{"bundle": bundle, **given}), tiny_classifier, pixels, labels, seed=0, batch_size=2)


def test_a_bundle_of_another_classifier_is_refused(bundle: str, tiny_classifier: Classifier) -> None:
    images = tiny.images(6, seed=11).images
    others = (tiny_classifier(images).argmax(1) + 1) % tiny_classifier.num_classes
    with pytest.raises(ConfigError, match=r"agrees with that of the recipe on 0% of the images"):
        informed(tiny_classifier.module, images, others, bundle, trusted="tiny")

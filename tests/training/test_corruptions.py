from __future__ import annotations

import pytest
import tiny
import torch
from torch.nn import functional

from training.attacks.corruptions import STRENGTHS, corrupt
from training.config import TrainingConfig
from training.settings import Corruption


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Eight smooth 32×32 images."""
    coarse = tiny.images(8, seed=3).images[..., ::2, ::2]
    return functional.interpolate(coarse, size=(32, 32), mode="bilinear").mul(255).round().to(torch.uint8)


def distance(changed: torch.Tensor, pixels: torch.Tensor) -> float:
    return float((changed.float() - pixels.float()).square().mean())


@pytest.mark.parametrize("kind", STRENGTHS)
def test_every_severity_is_further_from_the_image_and_repeatable(kind: Corruption, pixels: torch.Tensor) -> None:
    made = [corrupt(pixels, kind, severity, seed=1) for severity in range(1, 6)]
    assert all(each.dtype == torch.uint8 and each.shape == pixels.shape for each in made)
    distances = [distance(each, pixels) for each in made]
    assert distances[0] > 0 and distances == sorted(distances)
    assert torch.equal(corrupt(pixels, kind, 5, seed=1), made[-1])
    assert len(corrupt(pixels[:0], kind, 3, seed=1)) == 0


@pytest.mark.parametrize("kind", ["gaussian-noise", "rotation"])
def test_what_is_drawn_is_drawn_for_every_image(kind: Corruption, pixels: torch.Tensor) -> None:
    alike = pixels[:1].expand(8, -1, -1, -1)
    assert len(corrupt(alike, kind, 3, seed=1).flatten(1).unique(dim=0)) > 1
    assert not torch.equal(corrupt(alike, kind, 3, seed=1), corrupt(alike, kind, 3, seed=2))


def test_blur_grows_with_the_image(pixels: torch.Tensor) -> None:
    enlarged = pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    blurred = corrupt(enlarged, "gaussian-blur", 5, seed=0)
    shrunk = functional.avg_pool2d(blurred.float(), 4)
    assert distance(shrunk, corrupt(pixels, "gaussian-blur", 5, seed=0)) < 0.1 * distance(shrunk, pixels)


def test_rotation_keeps_lengths_in_images_that_are_not_square() -> None:
    bar = torch.zeros(1, 3, 40, 80, dtype=torch.uint8)
    bar[..., 10:30, 38:42] = 255  # upright, 20 long
    turned = corrupt(bar, "rotation", 5, seed=0)[0, 0] > 127
    spread = turned.nonzero().T.float().cov()  # of rows and columns
    tilt = 0.5 * torch.atan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]).abs()
    assert float(tilt.rad2deg()) == pytest.approx(15, abs=1.5)
    assert int(turned.sum()) == pytest.approx(20 * 4, rel=0.1)


def test_they_belong_to_the_test_split_alone() -> None:
    settings = {
        "classifier": {"source": "python:tiny:net", "input_size": (16, 16)},
        "images": {"source": "images"},
        "attacks": [{"name": "FGSM", "label": "jpeg-3", "family": "one-step", "limit": 7}],
    }
    plain = TrainingConfig.model_validate(settings)
    config = TrainingConfig.model_validate(settings | {"corruptions": {"kinds": ["rotation"], "severities": [2, 3]}})
    assert config.labels("fit") == plain.labels("fit")
    assert config.labels("calibrate") == plain.labels("calibrate") == ("clean",)
    assert config.labels("test") == (*plain.labels("test"), "rotation-2", "rotation-3")
    assert (config.limit_of("rotation-2", "test"), config.limit_of("jpeg-3", "test")) == (200, 7)
    assert config.limit_of("clean", "test") is None
    assert config.family_of("rotation-2") == "clean"
    with pytest.raises(ValueError, match="'jpeg-3' is used twice"):
        TrainingConfig.model_validate(settings | {"corruptions": {"kinds": ["jpeg"]}})

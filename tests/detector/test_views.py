from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from detector.bundle import EMBEDDED
from detector.evidence.compression import compress
from detector.evidence.views import ViewSettings, make_views
from detector.settings import EvidenceSettings

SETTINGS = ViewSettings(jpeg=(60,))
VIEWS = make_views(SETTINGS, (16, 12))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_shape_and_range(name: str) -> None:
    images = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    changed = VIEWS[name](images)
    assert changed.shape == images.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_the_same_for_every_neighbour_and_every_call(name: str) -> None:
    images = torch.rand(4, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    again = make_views(SETTINGS, (16, 12))[name]
    torch.testing.assert_close(VIEWS[name](images)[2:3], again(images[2:3]))


def test_a_shift_moves_the_image_down_and_right() -> None:
    view = make_views(ViewSettings(noise=(), flip=False, blur=False, rescale=(), shifts=((1, 0), (0, -1))), (32, 32))
    images = torch.zeros(1, 3, 32, 32)
    images[..., 10, 20] = 1
    assert view["shift+1+0"](images)[0, 0, 11, 20] == 1
    assert view["shift+0-1"](images)[0, 0, 10, 19] == 1


def test_noise_has_the_size_asked_for() -> None:
    view = make_views(ViewSettings(noise=(8.0,), noise_draws=1), (32, 32))["noise-8-0"]
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert (view(grey) - grey).std().item() * 255 == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("quality", [10, 49, 50, 60, 90])
@pytest.mark.parametrize("size", [(32, 32), (29, 45)])
def test_compression_does_what_a_codec_does(quality: int, size: tuple[int, int]) -> None:
    """Pillow's libjpeg calculates in whole numbers: now and then a coefficient falls to the other side of a half."""
    apart = changed = 0.0
    for sample in sorted((EMBEDDED.parent / "samples").glob("*/*.jpg"))[:8]:
        picture = Image.open(sample).convert("RGB").resize(size[::-1])
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling=2)
        before, coded = _tensor(picture), _tensor(Image.open(file))
        apart += (compress(before, quality) - coded).abs().mean().item()
        changed += (before - coded).abs().mean().item()
    assert apart < 0.6 * changed


def test_compression_is_the_same_for_every_neighbour_to_the_last_digit() -> None:
    flat = torch.arange(256).float().view(256, 1, 1, 1).expand(256, 3, 16, 16) / 255  # ties of rounding
    for images in (torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)), flat):
        together = compress(images, 60)
        for row in range(0, len(images), 13):
            assert torch.equal(compress(images[row : row + 1], 60)[0], together[row])


def test_settings_without_a_quality_are_written_as_ever() -> None:
    assert "jpeg" not in ViewSettings().model_dump(mode="json")
    assert "jpeg" not in EvidenceSettings().model_dump(mode="json")["views"]
    written = EvidenceSettings(views=ViewSettings(jpeg=(60, 30))).model_dump(mode="json")
    assert EvidenceSettings.model_validate(written).views.jpeg == (60, 30)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255

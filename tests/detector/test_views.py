from __future__ import annotations

import pytest
import torch

from detector.evidence.views import ViewSettings, make_views

VIEWS = make_views(ViewSettings(), (16, 12))


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
    again = make_views(ViewSettings(), (16, 12))[name]
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

"""Whatever a patch is and wherever it sticks, one mask hides it whole, and nothing of it is left under that mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detector.errors import ConfigError
from detector.evidence.covering import Covering
from detector.settings import PatchSettings

sizes = st.tuples(st.integers(12, 70), st.integers(12, 70))


@settings(max_examples=150, deadline=None)
@given(sizes, st.floats(0.002, 0.1), st.integers(2, 8))
def test_every_place_of_a_patch_lies_in_a_window(size: tuple[int, int], area: float, count: int) -> None:
    height, width = size
    try:
        covering = Covering.of(size, PatchSettings(area=area, masks=count * count))
    except ConfigError:
        return
    side = covering.side
    assert side**2 >= area * height * width > (side - 1) ** 2
    assert len(covering.windows) <= count * count
    first: dict[tuple[int, ...], tuple[int, int]] = {}
    for top in range(height - side + 1):
        for left in range(width - side + 1):
            holders = tuple(
                at
                for at, window in enumerate(covering.windows)
                if window.top <= top
                and window.left <= left
                and top + side <= window.bottom
                and left + side <= window.right
            )
            assert holders, (top, left)
            first.setdefault(holders, (top, left))
    assert covering.around == first
    for window in covering.windows:
        assert window.top >= 0 and window.bottom <= height and window.left >= 0 and window.right <= width


@pytest.mark.parametrize("masks", [9, 16, 25, 36, 49])
def test_a_larger_patch_would_not_lie_in_one(masks: int) -> None:
    """The property above can fail: windows are no larger than they must be."""
    covering = Covering.of((32, 32), PatchSettings(area=0.02, masks=masks))
    side = covering.side + 1
    places = range(32 - side + 1)
    held = [any(start <= at and at + side <= end for start, end in covering.rows) for at in places]
    assert not all(held)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_nothing_of_what_was_in_a_window_is_left_to_the_last_bit(seed: int, huge: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 20, 17, generator=generator)
    covering = Covering.of((20, 17), PatchSettings(area=0.05, masks=9))
    before = covering.covered(images)
    for at, window in enumerate(covering.windows):
        changed = images.clone()
        hole = changed[..., window.top : window.bottom, window.left : window.right]
        hole.copy_(torch.rand(hole.shape, generator=generator) * (1e6 if huge else 1))
        assert torch.equal(covering.covered(changed)[:, at], before[:, at])


def test_a_window_is_filled_with_what_is_around_it() -> None:
    images = torch.rand(1, 3, 16, 16)
    images[..., 8:] += 5  # two halves: the fill goes from one to the other
    covering = Covering.of((16, 16), PatchSettings(area=0.02, masks=9))
    window = covering.windows[4]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[window.top : window.bottom, window.left : window.right] = True
    covered = covering.covered(images)[0, 4]
    assert torch.equal(covered[:, ~inside], images[0][:, ~inside])
    filled = covered[:, window.top : window.bottom, window.left : window.right]
    assert (filled > 0).all() and (filled < 6).all()
    assert (filled[..., 0] < 2).all() and (filled[..., -1] > 4).all()
    grey = covering.covered(torch.full((1, 3, 16, 16), 0.4))
    torch.testing.assert_close(grey, torch.full_like(grey, 0.4))


def test_a_mask_that_hides_a_whole_side_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"would each hide \d+×521 of 16×1024: take more masks or a smaller area"):
        Covering.of((16, 1024), PatchSettings(area=0.02, masks=4))


def test_masks_stand_in_as_many_rows_as_columns() -> None:
    with pytest.raises(ValidationError, match="a square number, such as 36 or 49, got 40"):
        PatchSettings(masks=40)
    assert math.isqrt(PatchSettings().masks) ** 2 == PatchSettings().masks


def test_the_smallest_patch_has_a_pixel() -> None:
    assert Covering.of((16, 16), PatchSettings(area=1e-30, masks=16)).side == 1

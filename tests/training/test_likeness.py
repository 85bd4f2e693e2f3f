"""A strongly changed image is known again by its colours; what is nobody's photograph, or may be two, is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_copies import photograph

from training.data.copies import UNREADABLE, Signature, groups_of, sign
from training.data.likeness import likest
from training.data.sources import FolderSource

Pixels = NDArray[np.uint8]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [photograph(tmp_path / "there" / f"{number:02d}.png", number) for number in range(30)]


def signatures(folder: Path) -> list[Signature]:
    source = FolderSource(folder, labelled=False)
    return [sign(source, at) for at in range(len(source))]


def changed(files: list[Path], how: Callable[[Pixels], Pixels]) -> list[Signature]:
    """The images after a change, in the order of their files."""
    for path in files:
        target = path.parents[1] / "changed" / path.name
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(how(np.array(Image.open(path)))).save(target)
    return signatures(files[0].parents[1] / "changed")


def flat(pixels: Pixels) -> Pixels:
    return (pixels * 0.3 + 10).astype(np.uint8)


def bright(pixels: Pixels) -> Pixels:
    return (pixels * 0.4 + 150).astype(np.uint8)


def noisy(pixels: Pixels) -> Pixels:
    return (pixels + np.random.default_rng(0).normal(0, 60, pixels.shape)).clip(0, 255).astype(np.uint8)


def moved(pixels: Pixels) -> Pixels:
    """A tenth of the pixels elsewhere, as Pixle leaves them."""
    flat, drawn = pixels.reshape(-1, 3).copy(), np.random.default_rng(0)
    some = drawn.choice(len(flat), len(flat) // 10, replace=False)
    flat[some] = flat[drawn.permutation(some)]
    return flat.reshape(pixels.shape)


@pytest.mark.parametrize("how", [flat, bright, noisy, moved])
def test_a_changed_image_finds_its_photograph(files: list[Path], how: Callable[[Pixels], Pixels]) -> None:
    there = signatures(files[0].parent)
    assert likest(changed(files, how), there, range(30)) == list(range(30))
    if how in (flat, bright):
        grouped = groups_of([*there, *changed(files, how)], 16)
        assert len({*grouped}) > 30, "and a copy's rule would not have found all"


def test_what_is_not_there_finds_nobody(files: list[Path]) -> None:
    there = signatures(files[0].parent)
    found = likest(changed(files, noisy), there[15:], range(15))
    assert found == [None] * 15 + list(range(15))


def test_one_that_may_be_two_finds_nobody_unless_they_are_copies(files: list[Path]) -> None:
    there = signatures(files[0].parent)
    twice = [*there, *changed(files, flat)]
    seen = changed(files, noisy)
    assert likest(seen, twice, range(60)) == [None] * 30
    assert all(found in (at, 30 + at) for at, found in enumerate(likest(seen, twice, [*range(30), *range(30)])))


def test_a_blank_or_unreadable_image_is_nobodys(files: list[Path]) -> None:
    there = [UNREADABLE, *signatures(files[0].parent)]
    blank = changed(files[:1], lambda pixels: np.full_like(pixels, 90))
    assert likest(blank, there, range(31)) == [None]
    assert likest(changed(files[:1], flat), there, range(31)) == [1]
    assert likest(blank, [], []) == [None] and likest([], there, range(31)) == []

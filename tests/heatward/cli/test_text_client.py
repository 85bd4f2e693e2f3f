"""Words from outside, as they stand in a message: the client's copy does what the detector's does, which is tested."""

from __future__ import annotations

import inspect

import pytest
from heatward.cli import text as ours

from detector import text as detectors


@pytest.mark.parametrize("name", ["printable", "nearest", "_escaped"])
def test_the_copy_is_one(name: str) -> None:
    assert inspect.getsource(getattr(ours, name)) == inspect.getsource(getattr(detectors, name))


def test_so_are_its_numbers() -> None:
    for name in ("LONGEST", "LONGEST_COMPARED", "BYTES"):
        assert getattr(ours, name) == getattr(detectors, name)

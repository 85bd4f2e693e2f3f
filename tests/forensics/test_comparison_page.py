"""The page that tells why a challenger became champion, or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.errors import DataError
from forensics.report.comparison import write_comparison
from training.evaluation.examples import Example, write_examples
from training.retraining.comparison import Flags, decide
from training.retraining.shown import GAINED, LOST


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = np.arange(200)
    flags = {
        "clean": Flags("clean", place, place < 2, place < 2),
        "p$g<d>": Flags("old attack", place, place < 180, place < 120),
    }
    settings: dict[str, Any] = {"champion": "a" * 64, "challenger": "b" * 64, "rate": 0.01, "tolerance": 0.05}
    decide(flags, fresh=True, resamples=20, **settings).write(tmp_path)
    image, heat = np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.float32)
    lost = Example("pgd champion", image, image, heat, heat, "a", "b", 0.9, 0.8, True, 0.001, True, "a")
    write_examples(tmp_path, {GAINED: [], LOST: [lost]})
    return tmp_path


def test_the_page_says_what_was_decided_and_shows_what_was_lost(folder: Path) -> None:
    html = write_comparison(folder).read_text()
    assert "The champion stays" in html and "the challenger flags less" in html
    assert "p$g&lt;d&gt;" in html and "<d>" not in html
    assert "Only the champion flags these" in html and "Only the challenger flags these" not in html
    assert html.count("data:image/") == 2 and 'src="http' not in html and "<script" not in html


def test_the_same_comparison_gives_the_same_page(folder: Path) -> None:
    assert write_comparison(folder).read_bytes() == write_comparison(folder).read_bytes()


def test_a_folder_without_a_comparison_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a comparison"):
        write_comparison(tmp_path)

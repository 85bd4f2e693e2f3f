"""Batches of clean and attacked images: what they need, and what is said where there is too little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_job import write_source

from benchmarks.detection.calibrations import batches, run
from detector.errors import ConfigError, DataError
from training.evaluation.scores import Scored

RANDOM = np.random.default_rng(0)


def scored(count: int, *, first: int, above: float = 0.0) -> Scored:
    """So many images, whose numbers begin at `first`."""
    labels = np.zeros(count, np.int64)
    return Scored(
        source=np.arange(first, first + count),
        score=RANDOM.random(count) + above,
        prediction=labels,
        origin=labels,
        truth=labels,
        recovered=labels[:, None],
        corrected=labels,
    )


def test_batches_of_enough_images_have_a_row_for_each_calibration_and_share() -> None:
    assert len(batches(scored(3000, first=0), scored(100, first=5000, above=1), draws=1).rows) == 8


@pytest.mark.parametrize(
    ("clean", "attacked", "said"),
    [
        (2999, scored(100, first=5000), "need 3000 clean images, here are 2999"),
        (3000, scored(99, first=5000), "need 100 successful attacks on images that do not calibrate, here are 99"),
        (3000, scored(110, first=0), "need 100 successful attacks .* here are [0-9]+: name more --attacks"),
    ],
)
def test_too_few_images_are_an_error_that_counts_them(clean: int, attacked: Scored, said: str) -> None:
    with pytest.raises(DataError, match=said):
        batches(scored(clean, first=0), attacked, draws=1)


def test_an_attack_that_the_configuration_lacks_is_named_although_another_is_there(tmp_path: Path) -> None:
    config = write_source(tmp_path, 8) / "config.toml"
    with pytest.raises(ConfigError, match="no 'pdg'; name some of fgsm, pgd"):
        run(["--config", str(config), "--attacks", "fgsm", "pdg"])

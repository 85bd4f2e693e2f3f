"""Calibration by group: the promise holds within each predicted class, and too few images never break it silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from detector.scoring.groups import SHARED, Groups

CLASSES = 3


def drawn(random: np.random.Generator, counts: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores and predicted classes; those of class k are three times as high as those of class k - 1."""
    predictions = np.repeat(np.arange(len(counts)), counts)
    return random.exponential(size=len(predictions)) * 3.0**predictions, predictions


def fitted(scores: NDArray[np.float64], predictions: NDArray[np.int64], rate: float = 0.05) -> Groups:
    return Groups.fit(scores, predictions, np.arange(len(scores)), classes=CLASSES, rate=rate)


def flagged(groups: Groups, scores: NDArray[np.float64], predictions: NDArray[np.int64], rate: float) -> Any:
    found = groups.p_value(torch.from_numpy(scores), torch.from_numpy(predictions)).numpy() <= rate
    return np.bincount(predictions[found], minlength=CLASSES) / np.bincount(predictions, minlength=CLASSES)


def test_each_class_is_flagged_at_the_rate_where_one_calibration_flags_the_highest_alone() -> None:
    random, shares, pooled = np.random.default_rng(0), [], []
    for _ in range(100):
        groups = fitted(*drawn(random, (60, 60, 60)))
        scores, predictions = drawn(random, (200, 200, 200))
        shares.append(flagged(groups, scores, predictions, 0.05))
        alarms = Calibration.fit(torch.cat([each.scores for each in groups.calibrations])).p_value(
            torch.from_numpy(scores)
        )
        pooled.append(np.bincount(predictions[alarms.numpy() <= 0.05], minlength=CLASSES) / 200)
    assert np.mean(shares, axis=0) == pytest.approx([3 / 61] * CLASSES, abs=0.01)
    assert np.mean(pooled, axis=0)[2] > 0.1 > 0.01 > np.mean(pooled, axis=0)[0]


def test_classes_with_too_few_images_share_a_group_and_together_keep_the_rate() -> None:
    random = np.random.default_rng(1)
    groups = fitted(*drawn(random, (12, 15, 100)))
    assert sorted(groups.sizes) == [27, 100]
    assert groups.names(("cat", "dog", "ship")) == ("ship", SHARED)
    assert groups.names(()) == ("2", SHARED)
    share = []
    for _ in range(300):
        groups = fitted(*drawn(random, (12, 15, 100)))
        scores, predictions = drawn(random, (120, 150, 1))
        few = flagged(groups, scores, predictions, 0.05)
        share.append((few[0] * 120 + few[1] * 150) / 270)
    assert np.mean(share) <= 0.05 + 3 * np.std(share) / 300**0.5


def test_the_next_smallest_class_joins_until_there_are_enough() -> None:
    random = np.random.default_rng(2)
    assert fitted(*drawn(random, (3, 40, 50))).of_class.tolist() == [1, 1, 0]
    assert fitted(*drawn(random, (0, 50, 40))).of_class.tolist() == [1, 0, 1]  # never predicted: it must rank somewhere
    assert fitted(*drawn(random, (5, 6, 8))).sizes == (19,)
    assert fitted(*drawn(random, (10, 10, 15))).sizes == (35,)  # none of them has enough
    assert fitted(*drawn(random, (15, 15, 15)), rate=0.1).sizes == (45,)  # nor for any calibration at all
    with pytest.raises(CalibrationError, match="18 clean images do not reach a false-positive rate of 0"):
        fitted(*drawn(random, (5, 5, 8)))


def test_every_group_reaches_the_rate_that_was_wanted() -> None:
    groups = fitted(*drawn(np.random.default_rng(3), (98, 150, 120)), rate=0.01)
    assert groups.sizes == (150, 218)
    assert len(groups.scarcest.scores) == 150
    cuts = groups.thresholds(0.01)
    assert cuts is not None and groups.thresholds(0.005) is None
    scores, predictions = drawn(np.random.default_rng(4), (50, 50, 50))
    alarms = groups.p_value(torch.from_numpy(scores), torch.from_numpy(predictions)).numpy() <= 0.01
    assert (alarms == (scores >= cuts[predictions])).all()


def test_a_photograph_that_arrives_in_several_ways_counts_once_in_a_group() -> None:
    scores = np.concatenate([np.arange(40.0), np.arange(40.0) + 0.5])
    predictions = np.concatenate([np.zeros(40, np.int64), np.repeat([0, 1], 20)])
    groups = Groups.fit(scores, predictions, np.tile(np.arange(40), 2), classes=2, rate=0.05)
    assert groups.sizes == (40, 20)


def test_a_bundle_gives_back_what_it_was_given() -> None:
    groups = fitted(*drawn(np.random.default_rng(5), (30, 5, 60)))
    again = Groups.from_tensors(groups.tensors(), CLASSES)
    scores, predictions = (torch.from_numpy(each) for each in drawn(np.random.default_rng(6), (9, 9, 9)))
    assert torch.equal(again.p_value(scores, predictions), groups.p_value(scores, predictions))
    with pytest.raises(CalibrationError, match="of 3 classes, the classifier has 4"):
        Groups.from_tensors(groups.tensors(), 4)
    with pytest.raises(CalibrationError, match="damaged"):
        Groups.from_tensors({"group": torch.zeros(3)}, 3)

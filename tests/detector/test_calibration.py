"""The promise a user buys: "flag at 1 %" flags at most 1 % of clean images, for any number of calibration images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.errors import CalibrationError
from detector.scoring.calibration import FEWEST_SCORES, Calibration, one_of_each

levels = st.integers(0, 12).map(lambda level: level / 4)  # few values: many ties
any_scores = st.floats(-1e6, 1e6)
score_lists = st.lists(levels, min_size=20, max_size=60) | st.lists(any_scores, min_size=20, max_size=60)
few = settings(max_examples=40, deadline=None)
rates = st.floats(0.001, 0.999) | st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.29, 0.5])


@few
@given(score_lists, rates)
def test_among_exchangeable_scores_at_most_the_rate_is_flagged(scores: list[float], rate: float) -> None:
    """Exact form of P(p ≤ a) ≤ a: each of n + 1 scores is equally likely to be the new one."""
    values = torch.tensor(scores, dtype=torch.float64)
    flagged = 0
    for index, score in enumerate(values):
        others = torch.cat([values[:index], values[index + 1 :]])
        flagged += bool(Calibration.fit(others).p_value(score) <= rate)
    assert flagged <= rate * len(values) + 1e-9


def ranked_again(first: Tensor, second: Tensor, new: int) -> float:
    """The p-value of image `new` among the others, ranked by a second score where its first rank lies in a band.

    Args:
        first: (n + 1,) scores.
        second: (n + 1,) other scores.
        new: Which one is new.
    """
    others = torch.arange(len(first)) != new
    total, low, high = len(first), 2, len(first) // 4
    rank = round(float(Calibration.fit(first[others]).p_value(first[new])) * total)
    if not low <= rank <= high:
        return rank / total
    band = second[others][first[others].argsort(descending=True)[low - 1 : high - 1]]
    within = float(Calibration(band.sort().values).p_value(second[new]))
    return (low - 1 + within * (len(band) + 1)) / total


@few
@given(st.integers(0, 10_000), st.sampled_from(["independent", "equal", "opposite"]))
def test_a_band_of_ranks_may_be_ranked_again_by_any_other_score(seed: int, kind: str) -> None:
    """ADR 10: leave each of n + 1 images out in turn; their p-values are 1/(n+1) … 1, each once: every rate holds."""
    first, other = torch.randn(2, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    second = {"independent": other, "equal": first, "opposite": -first}[kind]
    p_values = [ranked_again(first, second, new) for new in range(40)]
    assert sorted(p_values) == pytest.approx([rank / 40 for rank in range(1, 41)])


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (99, 0.01), (99, 0.1), (57, 0.05), (200, 0.013)])
def test_the_rate_holds_on_average_over_many_calibrations(count: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = 1_000
    flagged = 0.0
    for _ in range(draws):
        clean = torch.randn(count, generator=generator, dtype=torch.float64).exp()
        fresh = torch.randn(50, generator=generator, dtype=torch.float64).exp()
        flagged += (Calibration.fit(clean).p_value(fresh) <= rate).double().mean().item()
    promised = int(rate * (count + 1) + 1e-9) / (count + 1)  # exact for continuous scores, and never above the rate
    assert flagged / draws == pytest.approx(promised, abs=4 * (rate / draws) ** 0.5)


@few
@given(score_lists, st.lists(any_scores | levels, min_size=2, max_size=10), rates)
def test_a_threshold_says_what_the_p_value_says(scores: list[float], new: list[float], rate: float) -> None:
    calibration = Calibration.fit(torch.tensor(scores, dtype=torch.float64))
    if rate < 1 / (len(scores) + 1):
        with pytest.raises(CalibrationError, match="needs"):
            calibration.threshold(rate)
        return
    candidates = torch.tensor([*new, *scores, calibration.threshold(rate)], dtype=torch.float64)
    flagged = calibration.p_value(candidates) <= rate
    assert torch.equal(flagged, candidates >= calibration.threshold(rate))


@few
@given(score_lists, st.lists(any_scores | levels, min_size=2, max_size=30))
def test_a_higher_score_never_has_a_higher_p_value(scores: list[float], new: list[float]) -> None:
    ascending = torch.tensor(new, dtype=torch.float64).sort().values
    p_values = Calibration.fit(torch.tensor(scores, dtype=torch.float64)).p_value(ascending)
    assert (p_values.diff() <= 0).all()
    assert p_values.min() >= 1 / (len(scores) + 1)
    assert p_values.max() <= 1


def test_ties_count_against_the_alarm() -> None:
    calibration = Calibration.fit(torch.ones(99))
    assert calibration.p_value(torch.tensor(1.0)) == 1
    assert calibration.p_value(torch.tensor(1.0).nextafter(torch.tensor(2.0))) == 0.01
    assert calibration.threshold(0.5) > 1


def test_p_values_keep_the_shape_and_survive_float32() -> None:
    calibration = Calibration.fit(torch.arange(99.0))
    p_values = calibration.p_value(torch.tensor([[98.0, 98.5], [-torch.inf, torch.inf]]))
    assert p_values.dtype == torch.float64
    assert p_values.tolist() == [[0.02, 0.01], [1.0, 0.01]]


def test_order_of_the_clean_images_does_not_matter() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Calibration.fit(scores).scores, Calibration.fit(scores.flip(0)).scores)


def test_operating_points_are_those_that_the_clean_images_reach() -> None:
    assert list(Calibration.fit(torch.rand(FEWEST_SCORES)).operating_points()) == [0.05, 0.1]
    assert list(Calibration.fit(torch.rand(999)).operating_points()) == [0.001, 0.01, 0.05, 0.1]


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(CalibrationError, match="between"):
        Calibration.fit(torch.rand(50)).threshold(rate)


def test_a_rate_too_small_says_how_many_images_it_needs() -> None:
    with pytest.raises(CalibrationError, match="needs 999 clean images"):
        Calibration.fit(torch.rand(500)).threshold(0.001)


@pytest.mark.parametrize("scores", [torch.rand(18), torch.rand(5, 5), torch.tensor([torch.nan] * 20)])
def test_scores_that_cannot_calibrate(scores: torch.Tensor) -> None:
    with pytest.raises(CalibrationError):
        Calibration.fit(scores)


def test_a_score_that_is_nan_has_no_verdict() -> None:
    with pytest.raises(CalibrationError, match="NaN"):
        Calibration.fit(torch.rand(20)).p_value(torch.tensor([0.5, torch.nan]))


def test_photographs_count_once_however_many_ways_they_arrive() -> None:
    alone = np.array([3.0, 1.0, 2.0])
    assert one_of_each(alone, np.array([7, 8, 9])) is alone
    twice = one_of_each(np.array([3.0, 1.0, 2.0, 3.5, 1.5, 2.5]), np.array([7, 8, 9, 7, 8, 9]))
    assert sorted(twice.tolist()) == [1.5, 2.5, 3.5]  # of two versions that make one up, the higher
    thrice = one_of_each(np.array([3.0, 2.0, 1.0, 0.0]), np.array([7, 7, 7, 8]))
    assert sorted(thrice.tolist()) == [0.0, 3.0]


def test_versions_promise_no_more_than_photographs() -> None:
    """Of clean photographs in four nearly equal versions, no more are flagged than was promised."""
    random, flagged = np.random.default_rng(0), 0
    for _ in range(400):
        own = random.normal(size=40)  # 39 calibrate, one is new
        scores = (own[:39, None] + 0.01 * random.normal(size=(39, 4))).reshape(-1)
        kept = torch.from_numpy(one_of_each(scores, np.repeat(np.arange(39), 4)))
        assert len(kept) == 39
        calibration = Calibration.fit(kept)
        with pytest.raises(CalibrationError, match="needs"):
            calibration.threshold(0.01)
        flagged += bool(calibration.p_value(torch.tensor(own[39])) <= 0.05)
    assert flagged <= 0.05 * 400 + 2.33 * (0.05 * 0.95 * 400) ** 0.5

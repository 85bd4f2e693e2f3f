import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.errors import DataError
from training.evaluation.metrics import FEW, Bootstrap, auroc, flagged, lowest, mean_of, roc_curve, threshold_at


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
)
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_share_of_pairs_won(positive: list[int], negative: list[int]) -> None:
    p, n = scores(*positive), scores(*negative)
    pairs = (p[:, None] > n).mean() + 0.5 * (p[:, None] == n).mean()
    assert auroc(p, n) == pytest.approx(pairs)


def test_threshold_is_the_conformal_rule() -> None:
    calibration = np.random.default_rng(0).normal(size=199).round(1)  # rounded: ties
    for rate in (0.005, 0.01, 0.05, 0.37):
        cut = threshold_at(calibration, rate)
        for score in np.linspace(-4, 4, 81).round(1):
            p_value = (1 + (calibration >= score).sum()) / 200
            assert bool(flagged(scores(score), cut)[0]) == (p_value <= rate + 1e-12)


def test_threshold_keeps_its_rate_on_clean_images_that_it_never_saw() -> None:
    rng = np.random.default_rng(1)
    rates = [flagged(rng.normal(size=200), threshold_at(rng.normal(size=99), 0.05)).mean() for _ in range(300)]
    assert np.mean(rates) <= 0.055


def test_too_few_calibration_images_never_flag_and_bad_ones_raise() -> None:
    assert threshold_at(scores(*range(50)), 0.01) == np.inf
    with pytest.raises(DataError, match="finite"):
        threshold_at(scores(0.0, np.nan), 0.05)


def test_intervals_draw_source_images_not_rows() -> None:
    # 20 images, each copied 50 times: 1,000 rows, but the evidence of 20.
    sources = np.repeat(np.arange(20), 50)
    hits = np.repeat(np.arange(20) < 10, 50)
    wide = Bootstrap(sources).rate(hits, sources)
    narrow = Bootstrap(np.arange(1000)).rate(hits, np.arange(1000))
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


def test_auroc_interval_holds_the_value_and_the_truth() -> None:
    rng = np.random.default_rng(2)
    ids = np.arange(400)
    estimate = Bootstrap(ids).auroc(rng.normal(1, 1, 400), ids, rng.normal(0, 1, 400), ids)
    truth = 0.7602  # Phi(1 / sqrt 2)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.low < truth < estimate.high
    assert estimate.high - estimate.low < 0.1


def test_same_seed_gives_the_same_interval() -> None:
    ids = np.arange(30)
    hits = ids % 3 == 0
    assert Bootstrap(ids, seed=4).rate(hits, ids) == Bootstrap(ids, seed=4).rate(hits, ids)


def test_nothing_to_count_is_null_in_json() -> None:
    empty = np.array([], dtype=np.int64)
    estimate = Bootstrap(np.arange(3)).rate(empty.astype(bool), empty)
    assert json.loads(json.dumps(estimate.as_dict(), allow_nan=False)) == {
        "value": None,
        "low": None,
        "high": None,
        "count": 0,
    }


def test_unknown_source_image_is_refused() -> None:
    with pytest.raises(DataError, match="7"):
        Bootstrap(np.arange(3)).rate(np.array([True]), np.array([7]))


def test_roc_curve_runs_from_nobody_to_everybody_and_has_the_auroc_under_it() -> None:
    rng = np.random.default_rng(3)
    p, n = rng.normal(1, 1, 3000), rng.normal(0, 1, 3000)
    fpr, tpr = roc_curve(p, n)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1) or (fpr[0] == 0 and fpr[-1] == 1 == tpr[-1])
    assert len(fpr) <= 200
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(p, n), abs=0.01)


def test_the_interval_of_a_mean_follows_the_resamples_of_its_parts() -> None:
    bootstrap = Bootstrap(np.arange(200))
    ids, hits = np.arange(200), np.arange(200) % 2 == 0
    one, other = bootstrap.rate(hits, ids), bootstrap.rate(~hits, ids)
    # what one part gains in a resample the other loses: the mean does not move
    still = mean_of([one, other])
    assert (still.value, still.low, still.high, still.count) == (0.5, pytest.approx(0.5), pytest.approx(0.5), 200)
    together = mean_of([one, one])
    assert (together.low, together.high) == pytest.approx((one.low, one.high))
    assert mean_of([one, bootstrap.rate(hits | True, ids)], [3, 1]).value == pytest.approx(0.625)


def test_a_mean_of_few_images_each_rests_on_few() -> None:
    """Fifteen attacks that worked on two images each are no thirty images."""
    bootstrap = Bootstrap(np.arange(40))
    pair, many = (bootstrap.rate(np.ones(count, dtype=bool), np.arange(count)) for count in (2, 40))
    assert mean_of([pair] * 15).count == 2 < FEW
    assert mean_of([many, pair], [0.8, 0.2]).count == 2


def test_parts_without_a_value_are_left_out() -> None:
    bootstrap = Bootstrap(np.arange(4))
    empty = bootstrap.rate(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    half = bootstrap.rate(np.array([True, False]), np.arange(2))
    assert mean_of([empty, half], [0.9, 0.1]).value == lowest([empty, half]).value == 0.5
    assert math.isnan(mean_of([empty]).value) and math.isnan(lowest([]).value)

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.errors import DataError
from training.evaluation.metrics import Bootstrap, auroc, flagged, roc_curve, threshold_at


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

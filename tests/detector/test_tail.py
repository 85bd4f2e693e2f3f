"""A tail says how rare a score is above all that was seen: near the truth, never too sure, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.errors import CalibrationError
from detector.scoring.tail import FEWEST_FOR_TAIL, Tail

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

EXPONENTIAL: Draw = lambda random, count: random.exponential(size=count)  # noqa: E731
PARETO: Draw = lambda random, count: random.pareto(4.0, size=count)  # noqa: E731
LOGISTIC: Draw = lambda random, count: random.logistic(size=count)  # noqa: E731
QUANTILE: dict[str, tuple[Draw, Callable[[float], float]]] = {
    "exponential": (EXPONENTIAL, lambda p: -np.log(p)),
    "pareto": (PARETO, lambda p: p ** (-1 / 4) - 1),
    "logistic": (LOGISTIC, lambda p: np.log(1 / p - 1)),
}


@pytest.mark.parametrize("law", QUANTILE)
@pytest.mark.parametrize("count", [500, 2000])
def test_of_known_laws_it_is_near_the_truth_and_its_interval_covers_it(law: str, count: int) -> None:
    draw, quantile = QUANTILE[law]
    random, truth = np.random.default_rng(3), 0.2 / (count + 1)
    ratios, covered = [], 0
    for scores in (draw(random, count) for _ in range(60)):
        with suppress(CalibrationError):  # a refusal is none too sure
            found = Tail.fit(scores).estimate(float(quantile(truth)))
            ratios.append(found.probability / truth)
            covered += found.low <= truth <= found.high
    assert len(ratios) > 50
    assert 0.4 < np.median(ratios) < 2.5
    assert covered >= 0.85 * len(ratios)


def test_below_what_was_counted_only_and_a_higher_score_is_rarer() -> None:
    scores = EXPONENTIAL(np.random.default_rng(0), 400)
    tail = Tail.fit(scores)
    found = [tail.estimate(float(scores.max()) + step) for step in (0.0, 1.0, 3.0, 9.0)]
    probabilities = [each.probability for each in found]
    assert probabilities[0] <= 1 / 401
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[-1] > 0
    assert all(each.low <= each.probability <= each.high for each in found)


def test_scores_that_have_an_end_get_no_estimate_of_zero() -> None:
    tail = Tail.fit(np.random.default_rng(5).beta(2, 5, size=400))
    assert tail.shape == 0
    assert tail.estimate(2.0).probability > 0


def test_the_same_scores_in_any_order_give_the_same_tail() -> None:
    scores = EXPONENTIAL(np.random.default_rng(0), 300)
    assert Tail.fit(scores).estimate(12.0) == Tail.fit(scores[::-1]).estimate(12.0)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (np.random.default_rng(0).exponential(size=FEWEST_FOR_TAIL - 1), "at least 200 clean scores, got 199"),
        (np.round(np.random.default_rng(0).normal(size=1000)), "many are equal"),
        (np.ones(500), "got 0 above 1"),
        (
            np.concatenate([np.random.default_rng(0).normal(size=970), np.random.default_rng(1).normal(10, 0.01, 30)]),
            "no tail that can be extrapolated",
        ),
    ],
)
def test_what_cannot_be_extrapolated_is_refused(scores: NDArray[np.float64], said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        Tail.fit(scores)


def test_a_tail_that_fits_is_hardly_ever_refused() -> None:
    random, refused = np.random.default_rng(9), 0
    for _ in range(100):
        try:
            Tail.fit(EXPONENTIAL(random, 300))
        except CalibrationError:
            refused += 1
    assert refused <= 6  # 1 in 100 is meant to be

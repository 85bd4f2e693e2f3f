"""The arithmetic of the benchmark of the server, against what can be said in advance."""

from __future__ import annotations

import math

import pytest

from benchmarks.serving.measures import Cost, flatness, goodput, percentile, poisson, sojourns, tail
from benchmarks.serving.parts import Row


def test_one_at_a_time_images_wait_for_those_before_them() -> None:
    assert sojourns([0.0, 0.5, 5.0], 1, lambda images: 1.0) == pytest.approx([1.0, 1.5, 1.0])


def test_a_batch_takes_what_waits_and_no_more_than_its_limit() -> None:
    cost = Cost(1.0, 0.5)
    assert sojourns([0.0, 0.1, 0.2, 0.3], 2, cost) == pytest.approx([1.5, 3.4, 3.3, 4.7])


def test_the_queue_of_one_server_has_the_mean_wait_of_the_textbook() -> None:
    load = 0.7
    found = sojourns(poisson(load, 200_000).tolist(), 1, lambda images: 1.0)
    assert sum(found) / len(found) == pytest.approx(1 + load / (2 * (1 - load)), rel=0.03)  # Pollaczek-Khinchine


def test_arrivals_come_in_order_at_their_rate() -> None:
    arrivals = poisson(100, 50, seed=1)
    assert (arrivals[1:] >= arrivals[:-1]).all() and arrivals[0] >= 0 and arrivals[-1] < 50
    assert len(arrivals) == pytest.approx(5000, rel=0.1)


def test_goodput_counts_only_answers_in_time() -> None:
    assert goodput([0.1, 0.2, 0.3, None], 0.25, seconds=2.0, capacity=1.0) == 1.0


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert math.isinf(percentile([], 0.5))
    assert tail([1.0] * 98 + [4.0] * 2) == 4.0


def test_growth_leaves_out_the_first_fifth() -> None:
    settled = flatness([50.0, 80.0] + [100.0] * 6 + [102.0] * 2)
    assert (settled.growth, settled.low, settled.high) == (pytest.approx(0.02), 100.0, 102.0)


def test_a_goal_is_met_on_its_own_side() -> None:
    assert Row("goodput", 0.95, "", 0.95).met and not Row("goodput", 0.94, "", 0.95).met
    assert Row("ms", 1.5, "", 1.5, False).met and not Row("ms", 1.6, "", 1.5, False).met
    assert Row("capacity", 1.0, "").met is None

"""What a batch costs: profiled sizes, a running percentile, a limit that adapts."""

from __future__ import annotations

import pytest

from server.models.latency_model import LatencyModel


def test_the_limit_starts_at_the_smallest_size_that_is_about_the_cheapest_an_image():
    assert LatencyModel({1: 1.0, 2: 1.2, 4: 2.0, 8: 3.95, 16: 8.5}).limit == 4
    assert LatencyModel({1: 1.0, 2: 1.2, 4: 2.0, 8: 3.0}).limit == 8


def test_the_limit_starts_within_the_goal_but_at_one_at_least():
    assert LatencyModel({1: 0.1, 2: 0.12, 4: 0.2, 8: 0.3}, goal_s=0.25).limit == 4
    assert LatencyModel({1: 3.0}, goal_s=0.25).limit == 1


def test_sizes_between_and_beyond_the_profile():
    latency = LatencyModel({1: 1.0, 4: 2.5, 8: 4.5})
    assert [latency.usual_s(size) for size in (1, 2, 4, 6, 8, 16)] == pytest.approx([1.0, 1.5, 2.5, 3.5, 4.5, 9.0])


def test_slow_batches_move_the_percentile_and_not_the_median():
    latency = LatencyModel({1: 1.0, 2: 1.0})
    for seconds in [1.0] * 17 + [3.0] * 3:
        latency.observe(seconds, 2)
    assert latency.usual_s(2) == pytest.approx(1.0)
    assert latency.slow_s(2) == pytest.approx(3.0)
    assert latency.slow_s(1) == pytest.approx(1.0)  # each size has its own


def test_many_images_take_several_batches():
    latency = LatencyModel({1: 1.0, 4: 2.0})
    assert latency.finish_s(1) == pytest.approx(1.0)
    assert latency.finish_s(4) == pytest.approx(2.0)
    assert latency.finish_s(9) == pytest.approx(2.0 + 2.0 + 1.0)


def test_batches_over_the_goal_shrink_the_limit_and_batches_in_time_let_it_grow_again():
    latency = LatencyModel({1: 0.01, 2: 0.012, 4: 0.015, 8: 0.02, 16: 0.03}, goal_s=0.1)
    assert latency.limit == 16
    latency.observe(0.2, 16)
    assert latency.limit == 12
    for _ in range(20):
        latency.observe(0.2, latency.limit)
    assert latency.limit == 1
    for _ in range(2000):
        latency.observe(0.01, latency.limit)
    assert latency.limit == 16


def test_at_equilibrium_about_one_batch_of_a_hundred_is_over_the_goal():
    latency = LatencyModel({1: 0.001, 64: 0.064}, goal_s=1.0)
    latency = LatencyModel({1: 0.01, 64: 0.011}, goal_s=0.0301)  # then a slower device: a millisecond an image
    over = 0
    for step in range(4000):
        seconds = 0.001 * latency.limit
        latency.observe(seconds, latency.limit)
        over += step >= 1000 and seconds > 0.0301
    assert 0.002 < over / 3000 < 0.02


def test_out_of_memory_halves_for_good():
    latency = LatencyModel({1: 1.0, 8: 1.5})
    latency.out_of_memory(8)
    for _ in range(1000):
        latency.observe(1.0, latency.limit)
    assert latency.limit == 4

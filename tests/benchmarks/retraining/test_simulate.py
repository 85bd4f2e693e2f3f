"""The simulation behaves as arithmetic says where arithmetic can say it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.retraining.simulate import EMBEDDED, Replica, makespan, waits


@pytest.mark.parametrize(("workers", "seconds"), [(1, 12.0), (2, 6.0), (3, 4.0), (6, 2.0), (60, 2.0)])
def test_workers_share_shards_where_the_driver_costs_nothing(workers: int, seconds: float) -> None:
    assert makespan([2.0] * 6, workers, driver=0.0) == pytest.approx(seconds)


def test_a_driver_of_half_a_second_a_shard_feeds_four_workers_of_two_seconds() -> None:
    shards = [2.0] * 400
    four, forty = (makespan(shards, workers, driver=0.5) for workers in (4, 40))
    assert four == pytest.approx(400 * 2.0 / 4, rel=0.02)
    assert forty == pytest.approx(400 * 0.5, rel=0.02)


def test_a_shard_waits_at_a_worker_while_it_makes_another() -> None:
    assert makespan([1.0] * 10, 1, driver=0.5) == pytest.approx(10.5)


def test_an_idle_replica_answers_at_once_and_an_overloaded_one_ever_later() -> None:
    replica = Replica(fixed=0.01, image=0.01, batch=4)
    idle = waits(replica, 1, rate=0.01, calls=100)
    assert np.allclose(idle, 0.02)
    late = waits(replica, 1, rate=2 * replica.capacity, calls=4000)
    assert late[-1] == pytest.approx(4000 / replica.capacity / 2, rel=0.05)


def test_it_is_the_same_every_time_and_more_replicas_answer_sooner() -> None:
    few, again, many = (waits(EMBEDDED, count, rate=100, calls=2000) for count in (3, 3, 6))
    assert np.array_equal(few, again)
    assert np.quantile(many, 0.99) < np.quantile(few, 0.99)

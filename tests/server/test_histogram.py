"""A histogram that is told many values at once shows what Prometheus' own shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from server.observers.histogram import BulkHistogram

BUCKETS = (0.0005, 0.01, 1.0, 30.0)
VALUES = st.one_of(st.sampled_from(BUCKETS), st.floats(0, 100))  # edges belong to the bucket below


def shown(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line and "_sum" not in line]


@given(st.lists(st.lists(VALUES, min_size=1, max_size=9), max_size=5))
def test_it_shows_what_prometheus_own_does(groups: list[list[float]]):
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    one_by_one = Histogram("seconds", "of time", buckets=BUCKETS, registry=theirs)
    together = BulkHistogram("seconds", "of time", BUCKETS, ours)
    for group in groups:
        together.observe(group)
        for value in group:
            one_by_one.observe(value)
    assert shown(ours) == shown(theirs)
    total = sum(map(sum, groups))
    assert abs((ours.get_sample_value("seconds_sum") or 0.0) - total) <= 1e-9 * max(1.0, total)

"""Many values at once → **a Prometheus histogram**.

`prometheus_client.Histogram` walks the buckets in Python under a lock for each value; this one is told a list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

__all__ = ["BulkHistogram"]


class BulkHistogram:
    """A histogram without labels.

    Args:
        name: Of the metric.
        text: What it says.
        buckets: Upper edges, ascending; the one without end is added.
        registry: Shows it.
    """

    def __init__(self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._edges = np.array(buckets)
        self._labels = [*(str(float(edge)) for edge in buckets), "+Inf"]
        self._counts = np.zeros(len(self._labels), np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Counts each in the first bucket whose edge it does not exceed."""
        places = np.searchsorted(self._edges, values)
        with self._lock:
            self._counts += np.bincount(places, minlength=len(self._labels))
            self._sum += sum(values)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            cumulative, total = self._counts.cumsum().tolist(), self._sum
        yield HistogramMetricFamily(
            self._name, self._text, buckets=list(zip(self._labels, cumulative, strict=True)), sum_value=total
        )

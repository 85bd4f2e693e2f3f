"""Batches and calls of ModelInfer → **Triton's `ModelStatistics`**: counts and nanoseconds since the server started.

Batches are the engine's, whatever protocol their images came by; requests are those of ModelInfer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from heatward.inference import grpc_service_pb2 as pb

from server.inference.observer import Observer
from server.inference.request import InferenceResult

__all__ = ["Statistics"]


class Statistics(Observer):
    """Adds up what it is told, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = pb.ModelStatistics()
        self._sizes: dict[int, pb.InferBatchStatistics] = {}

    def computed(self, seconds: float, images: int) -> None:
        """The engine computed a batch."""
        with self._lock:
            self._totals.last_inference = time.time_ns() // 1_000_000
            self._totals.inference_count += images
            self._totals.execution_count += 1
            size = self._sizes.setdefault(images, pb.InferBatchStatistics(batch_size=images))
            _add(size.compute_infer, seconds)

    def call_answered(self, seconds: float, output_s: float, results: Sequence[InferenceResult]) -> None:
        """A request was answered.

        Args:
            seconds: From its arrival.
            output_s: Of them, for writing the tensors.
            results: Of its images, which went side by side.
        """
        with self._lock:
            stats = self._totals.inference_stats
            _add(stats.success, seconds)
            _add(stats.queue, max(each.queue_s for each in results))
            _add(stats.compute_input, max(each.decode_s for each in results))
            _add(stats.compute_infer, max(each.compute_s for each in results))
            _add(stats.compute_output, output_s)

    def call_failed(self, seconds: float) -> None:
        """A request was refused or broke."""
        with self._lock:
            _add(self._totals.inference_stats.fail, seconds)

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """All of it, under this name."""
        with self._lock:
            sizes = [self._sizes[size] for size in sorted(self._sizes)]
            message = pb.ModelStatistics(name=name, version=version, batch_stats=sizes)
            message.MergeFrom(self._totals)
        return message


def _add(duration: pb.StatisticDuration, seconds: float) -> None:
    duration.count += 1
    duration.ns += round(seconds * 1e9)

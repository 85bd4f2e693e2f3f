"""What the service counts, and the HTTP endpoint /metrics that shows it (Prometheus text format).

The names follow Triton's division of a request's time: queue, decode, compute. The registry is our own, so that two
servers in one process do not collide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from server.batcher import Answer
from server.config import Effort

__all__ = ["Metrics"]

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The service's counters, gauges and histograms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
            return Histogram(f"heatward_{name}", text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"heatward_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"heatward_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests_total", "Calls answered, by method and gRPC status code", "method", "code")
        self._request_s = histogram("request_duration_seconds", "From a call's arrival to its end", "method")
        self._images = counter(
            "images_total", "Images answered, by verdict: attacked, clean, or the gRPC status code", "verdict"
        )
        self._verdicts = counter(
            "verdicts_total", "Verdicts, by the effort asked for and the one they got: fast, thorough", "asked", "got"
        )
        self._dropped = counter("images_dropped_total", "Images that left the queue before compute", "reason")
        self._queue_s = histogram("queue_duration_seconds", "An image's wait for the engine")
        self._decode_s = histogram("decode_duration_seconds", "Reading, checking and resizing an image")
        self._compute_s = histogram("compute_duration_seconds", "The detector's work on one batch")
        self._second_look_s = histogram("second_look_duration_seconds", "The detector's second look at one group")
        self._batch_size = histogram("batch_size", "Images in one batch", buckets=SIZES)
        self._pending = gauge("pending_images", "Images waiting, decoding ones included")
        self._in_flight = gauge("in_flight_requests", "Calls being answered")
        self._ready = gauge("ready", "1 while health says SERVING")
        self._detector = gauge("detector_info", "What is loaded; always 1", "version", "classifier", "fingerprint")

    def watch(self, pending: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """Names the functions that give the current depth of the queue and number of calls."""
        self._pending.set_function(pending)
        self._in_flight.set_function(in_flight)

    def call(self, method: str, code: str, seconds: float) -> None:
        self._requests.labels(method, code).inc()
        self._request_s.labels(method).observe(seconds)

    def image(self, answer: Answer, *, attacked: bool, decode_s: float, asked: Effort) -> None:
        self._images.labels("attacked" if attacked else "clean").inc()
        self._verdicts.labels(asked, answer.verdict.effort).inc()
        self._queue_s.observe(answer.queue_s)
        self._decode_s.observe(decode_s)

    def failed_image(self, code: str) -> None:
        self._images.labels(code).inc()

    def dropped(self, reason: str) -> None:
        self._dropped.labels(reason).inc()

    def batch(self, seconds: float, images: int) -> None:
        self._compute_s.observe(seconds)
        self._batch_size.observe(images)

    def second_look(self, seconds: float) -> None:
        self._second_look_s.observe(seconds)

    def ready(self, serving: bool) -> None:
        self._ready.set(serving)

    def detector(self, version: str, classifier: str, fingerprint: str) -> None:
        self._detector.clear()
        self._detector.labels(version, classifier, fingerprint).set(1)

    @contextmanager
    def endpoint(self, host: str, port: int | None) -> Iterator[int | None]:
        """Serves /metrics over HTTP from a thread of its own while the context lasts.

        Args:
            host: Address to listen on.
            port: 0 picks a free one; None serves nothing.

        Yields:
            The port that is listened on.

        Raises:
            OSError: The port is taken.
        """
        if port is None:
            yield None
            return
        try:
            server, thread = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise OSError(
                f"cannot serve metrics on {host}:{port} ({error.strerror}): name another metrics_port"
            ) from error
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

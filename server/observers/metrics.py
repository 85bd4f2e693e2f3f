"""What the service counts, and the HTTP endpoint /metrics that shows it (Prometheus text format).

The names follow Triton's division of a request's time: queue, decode, compute. Every label has few values, whatever
clients send. The registry is our own, so that two servers in one process do not collide.
"""

from __future__ import annotations

import re
import threading
from asyncio import CancelledError
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, start_http_server
from prometheus_client.registry import RestrictedRegistry

from detector.errors import HeatwardError
from detector.scoring.calibration import FEWEST_SCORES
from server.addresses import with_port
from server.errors import code_of
from server.inference.context import RequestContext
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult
from server.models.served_model import ServedModel
from server.observers.background import REASONS
from server.observers.drift import RATES, Drift
from server.observers.histogram import BulkHistogram

__all__ = ["Metrics"]

KNOWN = (HeatwardError, CancelledError)
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SIMILARITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.99, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GLANCE, FULL = "glance", "full"
TOGETHER = 64  # images: between other work, counting one takes three times as long as in a row


class _Registry(CollectorRegistry):
    """Has everything counted before it shows anything.

    Args:
        count: Counts what has not been counted yet.
    """

    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()
        self._count = count

    def collect(self) -> Iterator[Metric]:
        self._count()
        yield from super().collect()

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        self._count()
        return super().restricted_registry(names)


class Metrics(Observer):
    """The service's counters, gauges and histograms."""

    def __init__(self) -> None:
        self.registry = _Registry(self._count)
        ProcessCollector(registry=self.registry)  # process_resident_memory_bytes, process_cpu_seconds_total, …

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Histogram:
            return Histogram(f"heatward_{name}", text, labels, buckets=buckets, registry=self.registry)

        def bulk(name: str, text: str, buckets: Sequence[float] = SECONDS) -> BulkHistogram:
            return BulkHistogram(f"heatward_{name}", text, buckets, self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"heatward_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"heatward_{name}", text, labels, registry=self.registry)

        self._requests = counter("requests_total", "Calls answered, by method and gRPC status code", "method", "code")
        self._request_s = histogram("request_duration_seconds", "From a call's arrival to its end", "method")
        self._images = counter(
            "images_total", "Images answered: attacked, else patched, else clean; or the gRPC status code", "verdict"
        )
        self._failed = counter("images_failed_total", "Images not answered, by the kind of error", "reason")
        self._p_value = bulk("p_value", "p-values of verdicts; uniform on clean traffic", P_VALUES)
        self._guarded = counter(
            "guard_total",
            "Calls of the guarded model, by outcome: clean, attacked, failed_open, failed_closed, upstream_error",
            "policy",
            "outcome",
        )
        self._dropped = counter("images_dropped_total", "Images that left the queue before compute", "reason")
        self._queue_s = bulk("queue_duration_seconds", "An image's wait for the engine")
        self._decode_s = bulk("decode_duration_seconds", "Reading, checking and resizing an image")
        self._compute_s = histogram("compute_duration_seconds", "The detector's work on one batch")
        self._batch_size = histogram("batch_size", "Images in one batch", buckets=SIZES)
        self._pending = gauge("pending_images", "Images waiting, decoding ones included")
        self._in_flight = gauge("in_flight_requests", "Calls being answered")
        self._ready = gauge("ready", "1 while health says SERVING")
        self._detector = gauge("detector_info", "What is loaded; always 1", "version", "classifier", "fingerprint")
        self._shadowed = counter(
            "shadow_total",
            "Images and the shadow: same; differing verdict, p_value, label, recovered; skipped, refused, failed",
            "outcome",
        )
        self._reloads = counter(
            "reloads_total",
            "What was loaded anew while serving: detector, certificates, tokens; signature: no trusted key signed it",
            "what",
            "outcome",
        )
        self._served = counter("version_images_total", "Images judged, by detector and verdict", "version", "verdict")
        self._looks = counter(
            "looks_total",
            "Images judged, by how far they went: glance (a cascade cleared them at once), full",
            "look",
        )
        self._records = counter("records_total", "Images that were recorded")
        self._records_dropped = counter("records_dropped_total", "Images that should have been, and why not", "reason")
        self._labels = counter(
            "labels_total",
            "Labels of recorded images; contradicts: an earlier one says otherwise",
            "truth",
            "contradicts",
        )
        self._events = counter("events_total", "Events written: of flagged images and of query sequences")
        self._events_dropped = counter(
            "events_dropped_total", "Events that should have been written, and why not", "reason"
        )
        self._quarantined = counter("quarantined_total", "Attacked or patched images that were kept in quarantine")
        self._quarantine_dropped = counter(
            "quarantine_dropped_total", "Attacked or patched images that should have been, and why not", "reason"
        )
        self._similarity = bulk(
            "query_similarity", "How much a client's images resemble an attack's queries; 1 is an alert", SIMILARITIES
        )
        self._query_alerts = counter("query_alerts_total", "Clients whose images looked like an attack's queries")
        self._queries_dropped = counter("query_dropped_total", "Images that were not compared with their client's")
        # Looking up a child by its labels takes as long as counting does.
        self._image = lru_cache(256)(self._images.labels)
        self._failure = lru_cache(256)(self._failed.labels)
        self._drop = lru_cache(256)(self._dropped.labels)
        self._served_by = lru_cache(256)(self._served.labels)
        self._look = lru_cache(256)(self._looks.labels)
        self._request = lru_cache(256)(self._requests.labels)
        self._request_of = lru_cache(256)(self._request_s.labels)
        self._answered: deque[tuple[tuple[str, str, str], float, float, float]] = deque()
        self._counting = threading.Lock()
        self._version = ""
        self.drift = Drift(FEWEST_SCORES)
        gauge("drift_log10_e_value", "Evidence that traffic is unlike the calibration: from 2 on it is").set_function(
            lambda: self.drift.log10_e_value
        )
        shares = gauge("flagged_share", "Share of the last 1,000 or so verdicts with p at or below the rate", "rate")
        for rate in RATES:
            shares.labels(rate).set_function(partial(self._flagged_share, rate))
        for verdict in ("clean", "attacked", "patched"):  # there from the start, so that the first one is an increase
            self._images.labels(verdict)
        for look in (GLANCE, FULL):
            self._looks.labels(look)
        for reason in REASONS:
            self._records_dropped.labels(reason)
            self._events_dropped.labels(reason)
            self._quarantine_dropped.labels(reason)
        for what, outcome in product(("detector", "certificates", "tokens"), ("loaded", "failed")):
            self._reloads.labels(what, outcome)
        self._reloads.labels("signature", "failed")

    def watch(self, pending: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """Names the functions that give the current depth of the queue and number of calls."""
        self._pending.set_function(pending)
        self._in_flight.set_function(in_flight)

    def call_ended(self, rpc: RequestContext, method: str, code: str, seconds: float) -> None:
        self._request(method, code).inc()
        self._request_of(method).observe(seconds)

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        look = GLANCE if result.verdict.cleared else FULL
        kind = result.word, result.model.version, look
        self._answered.append((kind, result.queue_s, result.decode_s, result.verdict.p_value))
        if len(self._answered) >= TOGETHER:
            self._count()

    def _count(self) -> None:
        """Counts the images answered since the last time: many at once cost half as much as one by one."""
        with self._counting:
            answered = [self._answered.popleft() for _ in range(len(self._answered))]
            for (outcome, version, look), images in Counts(kind for kind, *_ in answered).items():
                self._image(outcome).inc(images)
                self._served_by(version, outcome).inc(images)
                self._look(look).inc(images)
            if not answered:
                return
            _, queue_s, decode_s, p_values = zip(*answered, strict=True)
            for histogram, values in ((self._queue_s, queue_s), (self._decode_s, decode_s), (self._p_value, p_values)):
                histogram.observe(values)
            for (_, version, _), _, _, p_value in answered:
                if version == self._version:  # a canary's p-values are ranks among others
                    self.drift.observe(p_value)

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        self._image(code_of(error)).inc()
        self._failure(_reason(type(error).__name__) if isinstance(error, KNOWN) else "defect").inc()

    def shadowed(self, outcomes: Sequence[str]) -> None:
        for outcome in outcomes:
            self._shadowed.labels(outcome).inc()

    def guarded(self, policy: str, outcome: str) -> None:
        self._guarded.labels(policy, outcome).inc()

    def dropped(self, reason: str) -> None:
        self._drop(reason).inc()

    def computed(self, seconds: float, images: int) -> None:
        self._compute_s.observe(seconds)
        self._batch_size.observe(images)

    def recorded(self, images: int) -> None:
        self._records.inc(images)

    def not_recorded(self, reason: str, images: int) -> None:
        self._records_dropped.labels(reason).inc(images)

    def event_written(self, events: int) -> None:
        self._events.inc(events)

    def event_dropped(self, reason: str, events: int) -> None:
        self._events_dropped.labels(reason).inc(events)

    def quarantined(self, images: int) -> None:
        self._quarantined.inc(images)

    def not_quarantined(self, reason: str, images: int) -> None:
        self._quarantine_dropped.labels(reason).inc(images)

    def labelled(self, truth: str, contradicts: bool) -> None:
        self._labels.labels(truth, "yes" if contradicts else "no").inc()

    def query_similarity(self, similarities: Sequence[float]) -> None:
        self._similarity.observe(similarities)

    def query_alert(self) -> None:
        self._query_alerts.inc()

    def queries_dropped(self, _: str, images: int) -> None:
        self._queries_dropped.inc(images)

    def ready(self, serving: bool) -> None:
        self._ready.set(serving)

    def reload(self, what: str, fine: bool) -> None:
        self._reloads.labels(what, "loaded" if fine else "failed").inc()

    def serves(self, model: ServedModel) -> None:
        """Names the model that answers by default from now on; the test for drift begins anew."""
        self._count()
        self._version = model.version
        self.drift = Drift(model.fewest_ranked)
        self._detector.clear()
        self._detector.labels(model.version, model.source, model.detector.classifier.fingerprint).set(1)

    def _flagged_share(self, rate: float) -> float:
        return self.drift.flagged_share(rate)

    @contextmanager
    def endpoint(self, addresses: Sequence[str], port: int | None) -> Iterator[int | None]:
        """Serves /metrics over HTTP from a thread of its own while the context lasts.

        Args:
            addresses: To listen on.
            port: 0 picks a free one; None serves nothing.

        Yields:
            The port that is listened on.

        Raises:
            OSError: The port is taken.
        """
        if port is None:
            yield None
            return
        with ExitStack() as open_ports:
            for address in addresses:
                try:
                    server, thread = start_http_server(port, address, registry=self.registry)
                except OSError as error:
                    place = with_port(address, port)
                    raise OSError(
                        f"cannot serve metrics on {place} ({error.strerror}): name another metrics_port, null for none"
                    ) from error
                for close in (thread.join, server.server_close, server.shutdown):  # the last one first
                    open_ports.callback(close)
                port = server.server_port
            yield port


@lru_cache(256)
def _reason(kind: str) -> str:
    """QueueFullError → queue_full: as many reasons as there are kinds of errors."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.removesuffix("Error")).lower()

"""*Images that were answered* → **a warning where a client's images look like the queries of an attack**.

    event loop ─▶ background.py ─▶ detector/queries, a sequence for each client ─▶ an alert

It only warns. Of each client it keeps fingerprints, no images, and of so many clients: whoever has not called for
longest is forgotten first. A client is the name of a token or, without tokens, an address.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.queries import QuerySequence, fingerprint
from server.config import ServerConfig
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.background import MOST, Background, Dropped
from server.observers.metrics import Metrics

__all__ = ["Queries", "QueryAlert", "open_queries"]

log = logging.getLogger("heatward.queries")

EVERY_S = 0.2
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class QueryAlert:
    """A client's images looked like an attack's queries."""

    client: str
    request_id: str
    """Of the image at which it was seen."""
    model: str
    """Which answered it: its name and version."""
    suspicious: int
    """So many of the client's last images resemble others of them."""
    images: int
    """How many those are."""
    attacked: int
    """How many of the client's last images, `query_window` at most, were flagged."""
    time_s: float
    """When, in seconds since 1970."""


class _Waiting(NamedTuple):
    client: str
    request_id: str
    model: str
    flagged: bool
    image: NDArray[np.uint8]


@dataclass(slots=True)
class _Client:
    sequence: QuerySequence
    flags: int = 0
    """A bit for each of its last images, set where it was flagged."""
    quiet: int = 0
    """Images that still pass before it is warned of again."""


class Queries(Background):
    """Compares the images of each client.

    Args:
        config: The settings `query_…`.
        on_similarity: Told the similarity of each image's sequence, several at once.
        on_alert: Each is told of each alert, on the thread that compares.
        on_dropped: Told why so many images were not compared.
    """

    def __init__(
        self,
        config: ServerConfig,
        on_similarity: Callable[[Sequence[float]], None],
        on_alert: Sequence[Callable[[QueryAlert], None]],
        on_dropped: Dropped,
    ) -> None:
        super().__init__("queries", None, lambda _: None, on_dropped, every_s=EVERY_S, most=MOST, most_bytes=MOST_BYTES)
        self._config = config
        self._exempt = frozenset(config.query_exempt)
        self._on_similarity, self._on_alert = on_similarity, on_alert
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self.start()

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        """Queues the image; called on the event loop."""
        if request.client not in self._exempt:
            model = f"{result.model.name} {result.model.version}"
            image = request.image
            self.put_any(_Waiting(request.client, request.request_id, model, result.flagged, image), image.nbytes)

    def _write(self, batch: list[_Waiting]) -> int:
        """Compares them."""
        similarities = []
        for waiting in batch:
            try:
                similarities.append(self._compare(waiting))
            except Exception as error:  # of one image; the others are compared
                log.error("an image cannot be compared", exc_info=error)
        self._on_similarity(similarities)
        return len(similarities)

    def _compare(self, waiting: _Waiting) -> float:
        client = self._client(waiting.client)
        sequence = client.sequence
        sequence.add(fingerprint(waiting.image))
        window = self._config.query_window
        client.flags = (client.flags << 1 | waiting.flagged) & ((1 << window) - 1)
        client.quiet = max(0, client.quiet - 1)
        if sequence.similarity >= 1 and not client.quiet:
            client.quiet = window
            self._alert(
                QueryAlert(
                    client=waiting.client,
                    request_id=waiting.request_id,
                    model=waiting.model,
                    suspicious=sequence.suspicious,
                    images=len(sequence),
                    attacked=client.flags.bit_count(),
                    time_s=time.time(),
                )
            )
        return sequence.similarity

    def _client(self, name: str) -> _Client:
        if name not in self._clients:
            sequence = QuerySequence(self._config.query_window, moves=self._config.query_video)
            self._clients[name] = _Client(sequence)
            if len(self._clients) > self._config.query_clients:
                self._clients.popitem(last=False)
        self._clients.move_to_end(name)
        return self._clients[name]

    def _alert(self, alert: QueryAlert) -> None:
        log.warning("a client's images resemble each other as an attack's queries do", extra=asdict(alert))
        for tell in self._on_alert:
            tell(alert)


def open_queries(
    config: ServerConfig, metrics: Metrics, on_alert: Sequence[Callable[[QueryAlert], None]] = ()
) -> Queries | None:
    """What compares images and tells the metrics; None where it is not asked for.

    Args:
        config: The settings `query_…`.
        metrics: Counts.
        on_alert: Others that are told of each alert, such as what writes events; on the thread that compares.
    """
    if not config.query_alerts:
        return None
    tell = (lambda _: metrics.query_alert(), *on_alert)
    return Queries(config, metrics.query_similarity, tell, metrics.queries_dropped)

"""One image on its way through the server, whatever the protocol: **an `InferenceRequest`**, and its `InferenceResult`.

    ARRIVED ─▶ ADMITTED (its image is decoded) ─▶ QUEUED ─▶ TAKEN by an engine ─▶ FINISHED: a result or an error

A request can be finished in every state: when it expires, when its caller leaves, when the server stops.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from detector.detector import Verdict
from server.inference.context import RequestContext
from server.inference.image import ImageSource
from server.models.served_model import ServedModel

__all__ = ["HIGH", "LOW", "NORMAL", "InferenceRequest", "InferenceResult", "Outcome", "State"]

LOW, NORMAL, HIGH = 0, 1, 2
"""Priorities."""

_number = itertools.count()


class State(IntEnum):
    """How far a request has come."""

    ARRIVED = 0
    ADMITTED = 1
    """It has a place in the queue; its image is decoded."""
    QUEUED = 2
    """It has a place in the queue, and waits for an engine."""
    TAKEN = 3
    """It has left the queue: an engine computes it, or nobody will."""
    FINISHED = 4


@dataclass(slots=True)
class InferenceResult:
    """A verdict, and where its time went, in seconds."""

    verdict: Verdict
    model: ServedModel
    false_positive_rate: float
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 1
    total_s: float = 0.0
    max_error_rate: float | None = None
    """The share of wrong predictions that the caller bears, if one was named."""
    overlay: bytes = b""
    """A PNG of the image under its heatmap, where it was asked for."""

    @property
    def attacked(self) -> bool:
        return self.verdict.p_value <= self.false_positive_rate

    @property
    def flagged(self) -> bool:
        """Attacked or patched, at its own rate or the server's: no caller chooses whether it is noticed."""
        rate, patch = max(self.false_positive_rate, self.model.default_rate), self.verdict.patch
        return self.verdict.p_value <= rate or (patch is not None and patch <= rate)

    @property
    def patched(self) -> bool | None:
        """Whether a patch made the prediction; None where nobody looked for one."""
        return None if self.verdict.patch is None else self.verdict.patch <= self.false_positive_rate

    @property
    def word(self) -> str:
        """The verdict at its own rate: attacked, else patched, else clean."""
        return "attacked" if self.attacked else "patched" if self.patched else "clean"

    @property
    def reliable(self) -> bool | None:
        """Whether the prediction is accepted by whoever bears `max_error_rate`; None where nobody asked."""
        if self.max_error_rate is None or self.verdict.error_rate is None:
            return None
        return self.verdict.error_rate <= self.max_error_rate


Outcome = InferenceResult | BaseException
"""What comes of a request."""


@dataclass(eq=False, slots=True)
class InferenceRequest:
    """One image with its options, from arrival to result. Times are of `time.monotonic`."""

    model: ServedModel
    """Judges it."""
    source: ImageSource
    false_positive_rate: float
    overlay: bool = False
    """Whether the heatmap is to be drawn over the image."""
    priority: int = NORMAL
    timeout_ms: int = 0
    """0: as long as the call allows."""
    request_id: str = ""
    """The call's, where it has none."""
    max_error_rate: float | None = None
    """The share of wrong predictions that the caller bears, if one was named."""

    # Written by the pipeline, the queue and the engine:
    context: RequestContext = field(init=False)
    client: str = ""
    size_bytes: int = 0
    """As it came, and decoded."""
    expires_s: float = 0.0
    arrived_s: float = 0.0
    queued_s: float = 0.0
    decode_s: float = 0.0
    image: NDArray[np.uint8] = field(init=False)
    """(H, W, 3), once it is decoded, of the classifier's input size."""
    decoded_size: tuple[int, int] = (0, 0)
    """(H, W) of the image as it came."""
    timer: asyncio.TimerHandle = field(init=False)
    state: State = State.ARRIVED
    outcome: Outcome | None = None
    observed: bool = True
    probe: bool = False
    """It is computed though it should be late, to learn whether the engine is still that slow."""
    on_finish: Callable[[InferenceRequest], None] = lambda _: None
    number: int = field(default_factory=_number.__next__)
    """In order of arrival."""

    @property
    def turn(self) -> tuple[float, int]:
        """Among the requests of one client and priority, the smallest goes first."""
        return self.expires_s, self.number

    @property
    def holds_place(self) -> bool:
        """Whether it has a place in the queue."""
        return self.state is State.ADMITTED or self.state is State.QUEUED

    def finish(self, outcome: Outcome) -> None:
        """Ends it; whatever comes after the first time is passed over. Call it on the event loop."""
        if self.outcome is None:
            self.outcome = outcome
            self.on_finish(self)
            self.state = State.FINISHED

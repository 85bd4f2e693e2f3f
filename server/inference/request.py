"""What travels through the server: one image on its way to the engine, and the answer on its way back."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.detector import Verdict
from server.inference.fair_queue import NORMAL
from server.inference.warm_up import Warm

__all__ = ["Answer", "Work"]

_number = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict and where its time went, in seconds."""

    verdict: Verdict
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(eq=False, slots=True)
class Work:
    """One image on its way to the engine. Times are of `time.monotonic`."""

    warm: Warm
    """The detector that judges it."""
    expires_s: float
    answer: asyncio.Future[Answer]
    client: str = ""
    priority: int = NORMAL
    size_bytes: int = 0
    request_id: str = ""
    image: NDArray[np.uint8] = field(init=False)  # (H, W, 3), once decoded
    queued_s: float = 0.0
    holds_place: bool = False
    probe: bool = False  # computed though it should be late, to learn whether the engine is still that slow
    number: int = field(default_factory=_number.__next__)  # in order of arrival

    @property
    def turn(self) -> tuple[float, int]:
        """Among the works of one client and priority, the smallest goes first."""
        return self.expires_s, self.number

"""A circuit breaker: calls that keep failing go in; errors at once, unsent, come out until the server is back.

closed ─ `failures` in a row ─▶ open ─ `cool_s` ─▶ half-open: one call is let through ─ answered ─▶ closed
                                 ▲                                                   └ failed ─▶ open
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from heatward.client import checks
from heatward.errors import DetectionError

__all__ = ["Breaker"]

COUNTED = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


class Breaker:
    """Lets calls through while the server answers. Safe to share between threads, and between clients of one server.

    Only UNAVAILABLE and DEADLINE_EXCEEDED count as failures, after gRPC's own retries; any other answer, a refusal too,
    shows a server that is alive. A call that its caller cancels shows nothing.

    Args:
        failures: So many in a row open the circuit.
        cool_s: Seconds that it stays open before one call may try again.
        clock: Seconds that only ever grow.

    Raises:
        TypeError, ValueError: `failures` is no whole number from 1, or `cool_s` no number above 0.
    """

    def __init__(self, failures: int = 5, cool_s: float = 10.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = checks.count("failures", failures)
        self._cool_s = checks.timeout("cool_s", cool_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._retry_at_s = 0.0  # when one call may try again
        self._probing = False

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call.

        Raises:
            DetectionError: UNAVAILABLE, where the circuit is open: nothing was sent.
        """
        probe = self._admit()
        alive: bool | None = None
        try:
            yield
            alive = True
        except DetectionError as error:
            alive = None if error.code == "CANCELLED" else error.code not in COUNTED
            raise
        finally:
            self._record(alive, probe)

    def _admit(self) -> bool:
        """Whether this call is the one that tries again."""
        with self._lock:
            if self._failed < self._limit:
                return False
            wait_s = self._retry_at_s - self._clock()
            if wait_s > 0:
                message = f"circuit open after {self._failed} failures in a row: nothing was sent"
                raise DetectionError("UNAVAILABLE", message, retry_after_s=wait_s)
            if self._probing:
                raise DetectionError("UNAVAILABLE", "circuit open while another call tries whether the server is back")
            self._probing = True
            return True

    def _record(self, alive: bool | None, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False
            elif self._failed >= self._limit:
                return  # sent before the circuit opened; the probe decides
            if alive is None:
                return
            self._failed = 0 if alive else self._failed + 1
            if self._failed >= self._limit:
                self._retry_at_s = self._clock() + self._cool_s

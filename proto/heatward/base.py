"""What both clients share: settings go in; a channel, the budget of a call and its circuit breaker come out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from heatward.breaker import Breaker
from heatward.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, LONGEST_S, PEM, Connection
from heatward.errors import raised_as_detection_error
from heatward.hedge import Hedge
from heatward.v1.detection_pb2_grpc import DetectionServiceStub

__all__ = ["BaseClient"]


class BaseClient:
    """Settings and helpers; `Client` documents the arguments."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool | PEM = False,
        certificate: PEM | None = None,
        key: PEM | None = None,
        server_name: str | None = None,
        token: str | None = None,
        wait_for_ready: bool = False,
        hedge_after_s: float | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._connection = Connection(address, tls, certificate, key, server_name, token, wait_for_ready)
        self._hedge = None if hedge_after_s is None else Hedge(hedge_after_s)
        self._breaker = breaker
        self._channel = self._open()
        self._stub = DetectionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def _open(self, *, health_checks: bool = True) -> Any:
        raise NotImplementedError

    def _budget_s(self, timeout_s: float | None) -> float:
        return min(self.timeout_s if timeout_s is None else timeout_s, LONGEST_S)

    def _arguments(self, timeout_s: float | None) -> dict[str, Any]:
        return self._connection.call_arguments(self._budget_s(timeout_s))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Around a call: errors are ours, and the breaker sees them."""
        with self._breaker.guard() if self._breaker else nullcontext(), raised_as_detection_error():
            yield

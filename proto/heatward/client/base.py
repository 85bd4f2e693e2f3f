"""What both clients share: settings go in; a channel, the budget of a call and its circuit breaker come out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from heatward.client import checks
from heatward.client.breaker import Breaker
from heatward.client.connection import Connection
from heatward.client.credentials import PEM
from heatward.client.forks import asyncio_clients, check_fit, open_calls
from heatward.client.hedge import Hedge
from heatward.client.limits import KnownLimits, too_large
from heatward.client.target import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from heatward.errors import DetectionError
from heatward.v1 import detection_pb2 as pb
from heatward.v1.detection_pb2_grpc import DetectionServiceStub
from heatward.v1.feedback_pb2_grpc import FeedbackServiceStub

__all__ = ["SERVING", "BaseClient"]

LONGEST_S = 365 * 24 * 3600.0
"""gRPC takes a far deadline, such as the `time_remaining()` of a call that has none, for one that has passed."""
SERVING = Int32Value(value=1)
"""A HealthCheckResponse that says SERVING."""


class BaseClient:
    """Settings and helpers; `Client` documents the arguments."""

    _library: Any = grpc

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
        self.timeout_s = checks.timeout("timeout_s", timeout_s)
        self._connection = Connection(address, tls, certificate, key, server_name, token, wait_for_ready)
        self._hedge = None if hedge_after_s is None else Hedge(hedge_after_s)
        self._breaker = breaker
        self._limits = KnownLimits()
        self._closed = False
        self._process = os.getpid()
        check_fit()
        if self._library is grpc.aio:
            asyncio_clients.add(self)
        self._channel = self._connection.open(self._library)
        self._stub = DetectionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._feedback = FeedbackServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def _budget_s(self, timeout_s: float | None) -> float:
        """The seconds that a call has.

        Raises:
            DetectionError: None are left.
        """
        if timeout_s is None:
            return min(self.timeout_s, LONGEST_S)
        left_s = checks.remaining("timeout_s", timeout_s)
        if left_s <= 0:
            raise DetectionError("DEADLINE_EXCEEDED", f"timeout_s is {left_s:g}: nothing was sent")
        return min(left_s, LONGEST_S)

    @staticmethod
    def _health_check(channel: Any) -> Any:
        """Of grpc.health.v1, whose messages hold one field each, as these of protobuf do."""
        return channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Around a call: errors are ours, and the breaker sees them."""
        with self._breaker.guard() if self._breaker else nullcontext(), self._errors():
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Around anything that asks gRPC: its errors become ours."""
        self._check_usable()
        call = object()
        open_calls.add(call)
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error) from error
        except DetectionError:
            raise
        except Exception as error:
            if self._closed:  # meanwhile; gRPC's own words for it are a ValueError or a UsageError
                raise self._closed_error() from error
            raise
        finally:
            open_calls.discard(call)

    def _error(self, error: grpc.RpcError) -> DetectionError:
        if self._closed and error.code() is grpc.StatusCode.CANCELLED:
            return self._closed_error()
        if "message larger than max" in (error.details() or ""):
            self._limits.forget()
        return self._connection.error(error)

    def _check_usable(self) -> None:
        """Before anything is sent.

        Raises:
            DetectionError: CANCELLED, because the client is closed.
            RuntimeError: It belongs to the process that this one was forked from.
        """
        if self._closed:
            raise self._closed_error()
        if self._process != os.getpid():
            raise RuntimeError("this client was opened before the process was forked: open one in the forked process")

    @staticmethod
    def _closed_error() -> DetectionError:
        return DetectionError("CANCELLED", "the client is closed: open another one")

    @staticmethod
    def _check_size(request: pb.DetectRequest, limits: pb.Limits | None) -> None:
        """Before a single image is sent; None: the limits are not known, and the image is small enough to try.

        Raises:
            DetectionError: INVALID_ARGUMENT, because it is over a limit.
        """
        if limits is not None and (failure := too_large(request, limits)):
            raise failure.error()

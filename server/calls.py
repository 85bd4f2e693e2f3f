"""What every call has, whatever its protocol: an id, a deadline, a line in the log, and a status where it fails."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from server.metrics import Metrics
from server.status import code_name, to_grpc, to_status

__all__ = ["Call", "Calls"]

log = logging.getLogger("heatward.calls")


@dataclass(frozen=True, slots=True)
class Call:
    """What the images of one call share. Times are of `time.monotonic`."""

    request_id: str
    deadline_s: float | None
    default_s: float
    client: str = ""
    """Who calls: images of different clients take turns in the queue."""

    def expires_s(self, now_s: float, timeout_ms: int) -> float:
        """When an image that arrives now is given up; `timeout_ms` is its own limit, 0 for none."""
        own_s = now_s + timeout_ms / 1e3 if timeout_ms else None
        if self.deadline_s is None:
            return now_s + self.default_s if own_s is None else own_s
        return self.deadline_s if own_s is None else min(own_s, self.deadline_s)


class Calls:
    """Counts and logs calls, and turns what is raised inside them into their status.

    Args:
        default_deadline_s: Of a call that sends none.
        metrics: What is counted.
    """

    def __init__(self, default_deadline_s: float, metrics: Metrics) -> None:
        self._default_s = default_deadline_s
        self._metrics = metrics
        self.in_flight = 0

    @asynccontextmanager
    async def call(self, method: str, context: grpc.aio.ServicerContext, request_id: str = "") -> AsyncIterator[Call]:
        started_s = time.monotonic()
        remaining_s = context.time_remaining()
        call = Call(
            request_id or uuid.uuid4().hex[:16],
            None if remaining_s is None else started_s + remaining_s,
            self._default_s,
            _client(context.peer()),
        )
        self.in_flight += 1
        code = "OK"
        try:
            yield call
        except asyncio.CancelledError:
            code = "CANCELLED" if call.deadline_s is None or time.monotonic() < call.deadline_s else "DEADLINE_EXCEEDED"
            raise
        except Exception as error:
            status = to_status(error, call.request_id)
            code = code_name(status)
            answer = to_grpc(status)
            await context.abort(answer.code, answer.details, answer.trailing_metadata)
        finally:
            self.in_flight -= 1
            seconds = time.monotonic() - started_s
            self._metrics.call(method, code, seconds)
            log.info(
                "call",
                extra={"method": method, "request_id": call.request_id, "code": code, "ms": round(seconds * 1e3, 3)},
            )


def _client(peer: str) -> str:
    """The address without its port: ipv4:10.0.0.7:41234 → ipv4:10.0.0.7."""
    return peer.rpartition(":")[0] or peer

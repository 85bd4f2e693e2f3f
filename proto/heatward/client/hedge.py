"""Hedged calls: one slow call goes in, a second, identical one is sent, and the first answer of the two comes out.

Dean & Barroso, "The Tail at Scale" (CACM 2013). gRPC specifies hedging (proposal A6), its core does not do it. Safe
because no call has side effects. Both calls live within one deadline; with several replicas, round robin sends the
second to another one.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from heatward.client import checks
from heatward.client.connection import RETRIED

__all__ = ["Hedge"]

RETRIED_CODES = tuple(grpc.StatusCode[name] for name in RETRIED)

SHARE = 0.1
"""Hedges are at most this share of the calls, so that a slow server does not get twice the load …"""
BURST = 10
"""… beyond this many at once."""


class Hedge:
    """Sends at most one second call. Safe to share between threads.

    Args:
        after_s: Seconds that the first call has before the second is sent; about the 95th percentile of latency.

    Raises:
        TypeError, ValueError: `after_s` is no number above 0.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = checks.timeout("hedge_after_s", after_s)
        if math.isinf(self._after_s):
            raise ValueError("hedge_after_s is a number of seconds, or None for no hedging; this is inf")
        self._lock = threading.Lock()
        self._tokens = float(BURST)

    def call(self, start: Callable[[float], Any], timeout_s: float) -> Any:
        """The answer of a call that `start`, given its seconds, returns as a gRPC future.

        Raises:
            grpc.RpcError: Both failed, or one in a way that the other would share.
        """
        deadline_s = time.monotonic() + timeout_s
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls: list[Any] = []

        def send() -> None:
            calls.append(start(deadline_s - time.monotonic()))
            calls[-1].add_done_callback(ended.put)

        self._earn()
        send()
        try:
            try:
                call = ended.get(timeout=self._after_s)
            except queue.Empty:
                if self._spend():
                    send()
                call = ended.get()
                if len(calls) > 1 and _may_differ(call):
                    call = ended.get()
            if call.code() is not grpc.StatusCode.OK:
                raise call  # not call.result(): for a cancelled call that raises what is no grpc.RpcError
            return call.result()
        finally:
            for each in calls:
                each.cancel()

    async def call_async(self, start: Callable[[float], Awaitable[Any]], timeout_s: float) -> Any:
        """As `call`, on the event loop."""
        deadline_s = time.monotonic() + timeout_s
        self._earn()
        calls = [asyncio.ensure_future(start(timeout_s))]
        try:
            ended, running = await asyncio.wait(calls, timeout=self._after_s)
            if running and self._spend():
                calls.append(asyncio.ensure_future(start(deadline_s - time.monotonic())))
                running.add(calls[-1])
            while running:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                decided = {call for call in ended if not _may_differ(call.exception())}
                if decided:
                    return decided.pop().result()
            return ended.pop().result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _earn(self) -> None:
        with self._lock:
            self._tokens = min(BURST, self._tokens + SHARE)

    def _spend(self) -> bool:
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


def _may_differ(error: BaseException | None) -> bool:
    """Whether another server may answer what this one could not."""
    return isinstance(error, grpc.RpcError) and error.code() in RETRIED_CODES

"""What every call has, whatever its protocol: an id, a deadline, a line in the log, observers, a status if it fails."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import grpc
from heatward.inference import grpc_service_pb2
from heatward.v1 import admin_pb2, detection_pb2, feedback_pb2

from server.access.disclosure import Disclosure
from server.access.tokens import CALLER, Quota
from server.errors import NotReadyError
from server.inference.context import RequestContext, Tally
from server.inference.observer import Observer
from server.logs import about
from server.transport.status import code_name, passed_on, to_grpc, to_status

__all__ = ["RpcContexts"]

log = logging.getLogger("heatward.calls")

METHODS = {
    method.name: f"{service.full_name}/{method.name}"
    for contract in (detection_pb2, admin_pb2, feedback_pb2, grpc_service_pb2)
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OTHER = "other"  # a client's name for a method that is not ours never becomes the label of a metric
LAST_LINES_S = 1.0
QUIET_S = 0.05
MAX_ID_CHARS = 128  # a longer request id is refused; until then, nothing that is written holds all of it


class RpcContexts:
    """Counts and logs calls, and turns what is raised inside them into their status.

    Args:
        default_deadline_s: Of a call that sends none.
        observer: Told of each call.
        disclosure: How much callers are told whose token says nothing of it.
    """

    def __init__(
        self,
        default_deadline_s: float,
        observer: Observer | None = None,
        disclosure: Disclosure = Disclosure.FULL,
    ) -> None:
        self._default_s = default_deadline_s
        self._disclosure = disclosure
        self._observer = observer or Observer()
        self.in_flight = 0
        self._open: dict[asyncio.Task[Any], Tally] = {}  # gRPC's own tasks: they end once the status is sent
        self._arrived_s = 0.0
        self._refusing = self._cutting = False

    def arrived(self, method: str) -> grpc.RpcMethodHandler | None:
        """Told of each call in its own task, before its message is there; refuses it where the server drains."""
        if method not in METHODS:
            return None
        self._arrived_s = time.monotonic()
        self._keep(Tally())
        return self.refusal(method, NotReadyError("the server is draining: call another")) if self._refusing else None

    def refusal(self, method: str, error: Exception) -> grpc.RpcMethodHandler:
        """A handler that raises this error."""

        async def refuse(requests: object, context: grpc.aio.ServicerContext) -> None:
            await self.fail(method, context, error)

        # As a stream whatever the method is: so no message is read before the answer.
        return grpc.stream_stream_rpc_method_handler(refuse)

    async def fail(self, method: str, context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
        """Ends a call with this error."""
        async with self.begin(method, context):
            raise error
        raise error  # never reached: a call that ended is left by an exception of gRPC's

    async def refuse_new(self, within_s: float) -> None:
        """Refuses what comes from now on, and returns once nothing has come for a moment, or then at the latest.

        What has arrived when gRPC shuts down and was not taken yet, gRPC ends as CANCELLED: no client sends that again.
        """
        self._refusing, until_s = True, time.monotonic() + within_s
        self._arrived_s = time.monotonic()
        while time.monotonic() < min(self._arrived_s + QUIET_S, until_s):
            await asyncio.sleep(QUIET_S / 2)

    async def cut(self, end: Awaitable[None]) -> tuple[int, int]:
        """Has all calls that are open ended, and waits for it.

        Args:
            end: Ends them.

        Returns:
            How many there were, and how many of their images had no answer.
        """
        self._cutting = True
        left = dict(self._open)
        await end
        if left:
            await asyncio.wait(left, timeout=LAST_LINES_S)
        return len(left), sum(tally.images for tally in left.values())

    @asynccontextmanager
    async def begin(
        self, method: str, context: grpc.aio.ServicerContext, request_id: str = ""
    ) -> AsyncIterator[RequestContext]:
        started_s = time.monotonic()
        remaining_s = context.time_remaining()
        request_id = request_id[:MAX_ID_CHARS] or uuid.uuid4().hex[:16]
        method = method if method in METHODS else OTHER
        caller = CALLER.get()
        rpc = RequestContext(
            request_id,
            None if remaining_s is None else started_s + remaining_s,
            self._default_s,
            caller.name if caller else _client(context.peer()),
            caller.quota if caller else Quota(),
            caller.now if caller else None,
            (caller.disclosure if caller else None) or self._disclosure,
        )
        labels = self._observer.call_began(rpc, METHODS.get(method, OTHER), context.invocation_metadata)
        about.set({"request_id": request_id, **labels})
        self._keep(rpc.unanswered)
        self.in_flight += 1
        code = "OK"
        try:
            yield rpc
        except asyncio.CancelledError:
            code = self._left(rpc)
            raise
        except grpc.aio.AioRpcError as error:  # of a server that this one stands in front of: passed on as it came
            code = error.code().name
            await _abort(context, *passed_on(error))
        except Exception as error:
            while isinstance(error, ExceptionGroup):  # of the tasks of a stream
                error = error.exceptions[0]
            if _is_over(error):  # written to or read from it, before we were told so
                code = self._left(rpc)
                raise asyncio.CancelledError from error
            status = to_status(error, rpc.request_id)
            code = code_name(status)
            answer = to_grpc(status, context.time_remaining())
            await _abort(context, answer.code, answer.details, answer.trailing_metadata)
        finally:
            self.in_flight -= 1
            seconds = time.monotonic() - started_s
            self._observer.call_ended(rpc, method, code, seconds)
            told = {"method": method, "client": rpc.client, "code": code, "ms": round(seconds * 1e3, 3)}
            asyncio.get_running_loop().call_soon(partial(log.info, "call", extra=told))  # once the answer is sent

    def _keep(self, tally: Tally) -> None:
        task = asyncio.current_task()
        if task is not None:
            if task not in self._open:
                task.add_done_callback(self._open.pop)
            self._open[task] = tally

    def _left(self, rpc: RequestContext) -> str:
        """The status of a call that its caller no longer waits for, or was told to wait for no longer."""
        if self._cutting:
            return "UNAVAILABLE"
        expired = rpc.deadline_s is not None and time.monotonic() >= rpc.deadline_s
        return "DEADLINE_EXCEEDED" if expired else "CANCELLED"


async def _abort(context: grpc.aio.ServicerContext, code: grpc.StatusCode, details: str, metadata: Any) -> None:
    try:
        await context.abort(code, details, metadata)
    except Exception as error:
        if _is_over(error):  # the caller is gone: nobody is there to be told
            raise asyncio.CancelledError from error
        raise


def _is_over(error: Exception) -> bool:
    """Whether gRPC says so that the call, or the server, has ended."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError)


def _client(peer: str) -> str:
    """The address without its port: ipv4:10.0.0.7:41234 → ipv4:10.0.0.7."""
    return peer.rpartition(":")[0] or peer

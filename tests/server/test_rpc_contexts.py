"""Calls whose caller is gone."""

from __future__ import annotations

import asyncio
import logging
import math

import grpc
import pytest

from server.errors import NotReadyError
from server.logs import caller_was_there
from server.observers.metrics import Metrics
from server.transport.rpc_contexts import RpcContexts

UNSENT = 'Failed "execute_batch": (<grpc._cython.cygrpc.SendStatusFromServerOperation object at 0x7f>,)'


class Context:
    """Of a call that is over."""

    def __init__(self, remaining_s: float) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float:
        return self._remaining_s

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, *status: object) -> None:
        raise grpc.aio.InternalError(UNSENT)


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("of a stream's tasks", [grpc.aio.InternalError(UNSENT)]),
        type("_ServerStoppedError", (grpc.aio.BaseError,), {})("Server already stopped."),
    ],
    ids=["call is over", "server is over"],
)
@pytest.mark.parametrize(("remaining_s", "code"), [(60.0, "CANCELLED"), (-1.0, "DEADLINE_EXCEEDED")])
async def test_an_answer_that_nobody_waits_for_is_no_defect(
    remaining_s: float, code: str, error: Exception, caplog: pytest.LogCaptureFixture
):
    """gRPC fails what is written to a call that is over; a stream may write before it hears of the end."""
    metrics = Metrics()
    rpcs = RpcContexts(math.inf, metrics)
    with caplog.at_level(logging.INFO, "heatward"):
        with pytest.raises(asyncio.CancelledError):
            async with rpcs.begin("DetectStream", Context(remaining_s)):
                raise error
        await asyncio.sleep(0)  # a call's line follows its answer
    counted = metrics.registry.get_sample_value("heatward_requests_total", {"method": "DetectStream", "code": code})
    assert counted == 1
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert rpcs.in_flight == 0


async def test_a_status_that_cannot_be_sent_is_no_defect(caplog: pytest.LogCaptureFixture):
    metrics = Metrics()
    rpcs = RpcContexts(math.inf, metrics)
    with pytest.raises(asyncio.CancelledError):
        async with rpcs.begin("DetectStream", Context(60.0)):
            raise NotReadyError("the server is draining")
    labels = {"method": "DetectStream", "code": "UNAVAILABLE"}
    assert metrics.registry.get_sample_value("heatward_requests_total", labels) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "told"),
    [(grpc.aio.InternalError(UNSENT), False), (grpc.aio.InternalError("Failed grpc_call_start_batch: 8"), True)],
)
def test_grpc_tells_no_more_of_a_caller_who_went(error: Exception, told: bool):
    """What grpc.aio logs itself where the caller went while the status was being sent, in the race or after it."""
    record = logging.LogRecord("grpc", logging.ERROR, "", 0, "raised in core", (), (type(error), error, None))
    assert caller_was_there(record) is told
    assert caller_was_there(logging.LogRecord("grpc", logging.ERROR, "", 0, "anything else", (), None))

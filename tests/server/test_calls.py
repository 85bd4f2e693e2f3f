"""Calls whose caller is gone."""

from __future__ import annotations

import asyncio
import logging
import math

import grpc
import pytest

from server.calls import Calls
from server.telemetry.metrics import Metrics


class Context:
    """Of a call that is over."""

    def __init__(self, remaining_s: float) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float:
        return self._remaining_s

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, *status: object) -> None:
        raise RuntimeError("nobody would read this status")


@pytest.mark.parametrize(("remaining_s", "code"), [(60.0, "CANCELLED"), (-1.0, "DEADLINE_EXCEEDED")])
async def test_an_answer_that_nobody_waits_for_is_no_defect(
    remaining_s: float, code: str, caplog: pytest.LogCaptureFixture
):
    """gRPC fails what is written to a call that is over; a stream may write before it hears of the end."""
    metrics = Metrics()
    calls = Calls(math.inf, metrics)
    with caplog.at_level(logging.INFO, "heatward"):
        with pytest.raises(asyncio.CancelledError):
            async with calls.call("DetectStream", Context(remaining_s)):
                raise ExceptionGroup("of a stream's tasks", [grpc.aio.InternalError()])
        await asyncio.sleep(0)  # a call's line follows its answer
    counted = metrics.registry.get_sample_value("heatward_requests_total", {"method": "DetectStream", "code": code})
    assert counted == 1
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert calls.in_flight == 0

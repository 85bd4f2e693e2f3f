"""The circuit breaker by itself, with a clock of the test's own, and in both clients."""

from __future__ import annotations

import asyncio
from typing import Any

import heatward
import pytest
from either import both, either
from fake_servicer import FakeServer


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: heatward.Breaker, code: str = "UNAVAILABLE") -> None:
    with pytest.raises(heatward.DetectionError, match=f"{code}: from the server"), breaker.guard():
        raise heatward.DetectionError(code, "from the server")


def answer(breaker: heatward.Breaker) -> None:
    with breaker.guard():
        pass


def refused(breaker: heatward.Breaker) -> heatward.DetectionError:
    with pytest.raises(heatward.DetectionError, match="UNAVAILABLE: circuit open") as caught, breaker.guard():
        pytest.fail("the call was let through")
    return caught.value


def test_it_opens_cools_lets_one_call_try_and_closes(clock: Clock) -> None:
    breaker = heatward.Breaker(failures=2, cool_s=10, clock=clock)
    fail(breaker, "UNAVAILABLE")
    fail(breaker, "DEADLINE_EXCEEDED")
    clock.now_s += 4
    assert refused(breaker).retry_after_s == 6
    clock.now_s += 6
    with breaker.guard():
        assert "another call tries" in str(refused(breaker))
    fail(breaker)  # closed, and counted from nought
    answer(breaker)


def test_a_try_that_fails_opens_it_again_for_as_long(clock: Clock) -> None:
    breaker = heatward.Breaker(failures=2, cool_s=10, clock=clock)
    fail(breaker)
    fail(breaker)
    clock.now_s += 10
    fail(breaker)
    assert refused(breaker).retry_after_s == 10
    clock.now_s += 10
    answer(breaker)
    answer(breaker)


def test_a_try_that_its_caller_cancels_leaves_it_to_the_next(clock: Clock) -> None:
    breaker = heatward.Breaker(failures=1, clock=clock)
    fail(breaker)
    clock.now_s += 10
    with pytest.raises(asyncio.CancelledError), breaker.guard():
        raise asyncio.CancelledError
    fail(breaker, "CANCELLED")
    answer(breaker)
    answer(breaker)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_a_refusal_shows_a_server_that_is_alive(clock: Clock, code: str) -> None:
    breaker = heatward.Breaker(failures=2, clock=clock)
    for _ in range(3):
        fail(breaker)
        fail(breaker, code)
    answer(breaker)


def test_calls_sent_before_it_opened_do_not_close_it(clock: Clock) -> None:
    breaker = heatward.Breaker(failures=1, clock=clock)
    with breaker.guard():
        fail(breaker)
    refused(breaker)


@pytest.mark.parametrize(
    "arguments", [{"failures": 0}, {"failures": 1.5}, {"cool_s": 0}, {"cool_s": float("nan")}, {"cool_s": "10"}]
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        heatward.Breaker(**arguments)


@both
async def test_a_client_spares_a_server_that_is_down_and_finds_it_again(
    server: FakeServer, clock: Clock, kind: str
) -> None:
    server.detector.fail_first, server.detector.pushback_ms = 2, "-1"
    breaker = heatward.Breaker(failures=2, cool_s=10, clock=clock)
    async with either(kind, server.address, breaker=breaker) as client:
        for message in ("not now", "not now", "circuit open"):
            with pytest.raises(heatward.DetectionError, match=f"UNAVAILABLE: {message}"):
                await client.detect(b"image")
        with pytest.raises(heatward.DetectionError, match="circuit open"):
            await client.describe()
        assert server.detector.calls == 2
        assert await client.health()  # always asks
        clock.now_s += 10
        assert not (await client.detect(b"image")).attacked
        assert not (await client.detect(b"image")).attacked

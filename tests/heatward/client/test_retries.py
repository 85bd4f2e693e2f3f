"""What a call survives within its one deadline: refusals that say when to come back, slow replicas, far deadlines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures

import grpc
import heatward
import pytest
from either import both, either
from fake_servicer import SERVICE, FakeServer
from heatward.client.hedge import Hedge


@both
async def test_the_pause_that_a_server_asks_for_is_kept_and_comes_off_the_deadline(
    server: FakeServer, kind: str
) -> None:
    detector = server.detector
    detector.fail_first, detector.failure, detector.pushback_ms = 2, grpc.StatusCode.RESOURCE_EXHAUSTED, "300"
    async with either(kind, server.address) as client:
        assert not (await client.detect(b"image")).attacked
    first, _, third = detector.remaining_s
    assert third < first - 0.5


@both
async def test_no_retry_outlives_the_deadline(server: FakeServer, kind: str) -> None:
    server.detector.fail_first, server.detector.pushback_ms = 9, "60000"
    async with either(kind, server.address, timeout_s=0.3) as client:
        with pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"):
            await client.detect(b"image")
    assert server.detector.calls == 1


@both
async def test_a_negative_pause_means_not_again(server: FakeServer, kind: str) -> None:
    detector = server.detector
    detector.fail_first, detector.failure, detector.pushback_ms = 1, grpc.StatusCode.RESOURCE_EXHAUSTED, "-1"
    async with either(kind, server.address) as client:
        with pytest.raises(heatward.DetectionError, match="RESOURCE_EXHAUSTED: not now"):
            await client.detect(b"image")
    assert detector.calls == 1


def test_a_server_that_keeps_failing_is_not_hammered(server: FakeServer) -> None:
    server.detector.fail_first, server.detector.pushback_ms = 10_000, "1"
    attempts = []
    with heatward.Client(server.address) as client:
        for _ in range(20):
            before = server.detector.calls
            with pytest.raises(heatward.DetectionError, match="UNAVAILABLE"):
                client.detect(b"image")
            attempts.append(server.detector.calls - before)
    assert (attempts[0], attempts[-1]) == (5, 1)


@both
async def test_the_time_remaining_of_a_call_without_deadline_is_a_budget(server: FakeServer, kind: str) -> None:
    async with either(kind, server.address) as client:
        assert not (await client.detect(b"image", timeout_s=2.0**63)).attacked
        with pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"):
            await client.detect(b"image", timeout_s=-1)


@both
async def test_calls_may_wait_for_a_server_that_is_still_loading(server: FakeServer, kind: str) -> None:
    server.set_serving(False, SERVICE)
    async with either(kind, server.address, wait_for_ready=True) as client:
        waiting = asyncio.create_task(client.detect(b"image"))
        server.set_serving(True, SERVICE)
        assert not (await waiting).attacked


@both
async def test_a_hedge_wins_over_a_slow_call_which_is_cancelled(server: FakeServer, kind: str) -> None:
    server.detector.slow_first = 1
    async with either(kind, server.address, hedge_after_s=0.05) as client:
        assert (await client.detect(b"attacked")).attacked
        assert await asyncio.to_thread(server.detector.cancelled.wait, 5)
    assert server.detector.calls == 2
    assert not server.detector.released.is_set()


@both
async def test_a_quick_call_is_not_hedged(server: FakeServer, kind: str) -> None:
    async with either(kind, server.address, hedge_after_s=30) as client:
        assert (await client.detect(b"attacked")).attacked
        with pytest.raises(heatward.DetectionError, match=r"image\.encoded"):
            await client.detect(b"bad")
    assert server.detector.calls == 2


@both
async def test_a_refusal_of_the_hedge_is_the_answer(server: FakeServer, kind: str) -> None:
    server.detector.slow_first = 1
    async with either(kind, server.address, hedge_after_s=0.05) as client:
        with pytest.raises(heatward.DetectionError, match=r"image\.encoded"):
            await client.detect(b"bad")


@both
async def test_both_calls_share_one_deadline(server: FakeServer, kind: str) -> None:
    server.detector.slow_first = 2
    async with either(kind, server.address, hedge_after_s=0.3, timeout_s=0.6) as client:
        with pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"):
            await client.detect(b"image")
    first, second = server.detector.remaining_s
    assert second < first - 0.2


class FakeCall(grpc.RpcError, futures.Future[str]):
    """A call as the synchronous library returns it, answered after a while or ended with a code at once."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.OK, answer: str = "") -> None:
        futures.Future.__init__(self)
        self._code = code
        if code is grpc.StatusCode.OK:
            threading.Timer(0.05, self._answer, [answer]).start()
        else:
            self.set_exception(self)

    def _answer(self, answer: str) -> None:
        if self.set_running_or_notify_cancel():
            self.set_result(answer)

    def code(self) -> grpc.StatusCode:
        return self._code


async def hedged(kind: str, hedge: Hedge, start: Callable[[float], FakeCall]) -> str:
    if kind == "async":
        return str(await hedge.call_async(lambda left_s: asyncio.wrap_future(start(left_s)), 10))
    return str(await asyncio.to_thread(hedge.call, start, 10))


@both
async def test_a_hedge_that_finds_no_server_leaves_it_to_the_first_call(kind: str) -> None:
    codes = iter([grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE])
    assert await hedged(kind, Hedge(0.01), lambda left_s: FakeCall(next(codes), "first")) == "first"
    assert next(codes, None) is None


@both
async def test_a_slow_server_does_not_get_twice_the_load(kind: str) -> None:
    hedge, sent = Hedge(0.001), []

    def start(left_s: float) -> FakeCall:
        sent.append(left_s)
        return FakeCall(answer="late")

    for _ in range(20):
        await hedged(kind, hedge, start)
    assert 20 < len(sent) <= 20 + 11  # ten at once, then one for each ten calls


@pytest.mark.parametrize("after_s", [0, -1, float("nan"), float("inf")])
def test_a_hedge_before_the_call_is_refused(after_s: float) -> None:
    with pytest.raises(ValueError, match="hedge_after_s"):
        heatward.Client(hedge_after_s=after_s)

"""Whose image goes first, as callers see it: two tokens, three priorities, one queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw
from test_service import settle

BUSY, BIG, SMALL = "busy-token-0123456789", "big-token-0123456789", "small-token-0123456789"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"busy {BUSY}\nbig {BIG}\nsmall {SMALL}\n")
    return path


def ask(served, token: str, label: int, priority: Any = 0) -> grpc.aio.UnaryUnaryCall:
    request = raw(picture(label), str(label))
    request.priority = priority
    return served.stub.Detect(request, metadata=(("authorization", f"Bearer {token}"),))


async def waiting(served, *asked: tuple[str, int, int]) -> list[grpc.aio.UnaryUnaryCall]:
    """Calls whose images stand in the queue in this order of arrival, the engine busy with another's (label 1)."""
    served.detector.gate.clear()
    calls = [ask(served, BUSY, 1)]
    await settle(served.detector.entered.is_set)
    for token, label, priority in asked:
        calls.append(ask(served, token, label, priority))
        await settle(lambda: served.app.batcher.queued == len(calls) - 1)
    return calls


async def served_in_order(served, calls: list[grpc.aio.UnaryUnaryCall]) -> list[int]:
    served.detector.gate.set()
    for call in calls:
        await call
    return [label for batch in served.detector.batches for label in batch][1:]


async def test_a_small_client_waits_for_no_more_of_a_flood_than_it_sends_itself(serving, tokens: Path):
    async with serving(token_file=tokens, max_batch=1) as served:
        flood = [(BIG, label, 0) for label in range(100, 110)]
        calls = await waiting(served, *flood, (SMALL, 20, 0), (SMALL, 21, 0))
        assert await served_in_order(served, calls) == [100, 20, 101, 21, *range(102, 110)]


async def test_priority_goes_before_turns(serving, tokens: Path):
    async with serving(token_file=tokens, max_batch=1) as served:
        asked = [
            (BIG, 100, pb.PRIORITY_LOW),
            (SMALL, 20, pb.PRIORITY_NORMAL),
            (BIG, 101, pb.PRIORITY_UNSPECIFIED),
            (BIG, 102, pb.PRIORITY_HIGH),
            (BIG, 103, pb.PRIORITY_HIGH),
        ]
        assert await served_in_order(served, await waiting(served, *asked)) == [102, 103, 20, 101, 100]


async def test_in_a_full_queue_the_flood_makes_room(serving, tokens: Path):
    async with serving(token_file=tokens, max_batch=1, queue_items=4) as served:
        busy, *flood = await waiting(served, *((BIG, label, 0) for label in range(100, 104)))
        small = ask(served, SMALL, 20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await flood[-1]
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served, BIG, 104)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await served_in_order(served, [busy, *flood[:-1], small]) == [100, 20, 101, 102]

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch

from server.batcher import Batcher, Work
from server.errors import EngineStoppedError, QueueFullError

IMAGE = torch.zeros(3, 2, 2)


def put(batcher: Batcher, expires_in_s: float = 60.0) -> Work:
    work = batcher.admit(time.monotonic() + expires_in_s)
    batcher.enqueue(work, IMAGE)
    return work


async def test_takes_what_waits_up_to_the_limit_in_order():
    batcher = Batcher(max_batch=3, capacity=9)
    works = [put(batcher) for _ in range(5)]
    assert batcher.take() == works[:3]
    assert batcher.take() == works[3:]
    assert batcher.pending == 0


async def test_a_place_is_held_while_decoding_and_given_back_once():
    batcher = Batcher(max_batch=3, capacity=2)
    decoding, queued = batcher.admit(time.monotonic() + 60), put(batcher)
    with pytest.raises(QueueFullError):
        batcher.admit(time.monotonic() + 60)
    batcher.leave(decoding)
    batcher.leave(decoding)
    assert batcher.pending == 1
    assert batcher.take() == [queued]
    batcher.leave(queued)
    assert batcher.pending == 0


async def test_dropped_work_is_counted_by_reason():
    reasons: list[str] = []
    batcher = Batcher(max_batch=9, capacity=9, on_drop=reasons.append)
    put(batcher, expires_in_s=-1)
    gone, alive, abandoned = put(batcher), put(batcher), put(batcher)
    gone.answer.cancel()
    batcher.leave(abandoned)
    assert batcher.take() == [alive]
    assert sorted(reasons) == ["cancelled", "cancelled", "expired"]
    assert batcher.pending == 0


async def test_refused_callers_are_told_the_pace():
    batcher = Batcher(max_batch=2, capacity=4)
    batcher.observe(2.0, 4)
    for _ in range(4):
        put(batcher)
    with pytest.raises(QueueFullError) as caught:
        batcher.admit(time.monotonic() + 60)
    assert caught.value.retry_after_s == pytest.approx(4 * 0.5)


async def test_linger_waits_for_a_full_batch():
    batcher = Batcher(max_batch=2, capacity=9, linger_s=30)
    taken: list[list[Work]] = []
    thread = threading.Thread(target=lambda: taken.append(batcher.take()))
    works = [put(batcher)]
    thread.start()
    await asyncio.sleep(0.05)
    assert taken == []
    works.append(put(batcher))
    await asyncio.to_thread(thread.join, 10)
    assert taken == [works]


async def test_closed_hands_out_the_rest_and_takes_no_more():
    batcher = Batcher(max_batch=2, capacity=9)
    late = batcher.admit(time.monotonic() + 60)
    works = [put(batcher)]
    batcher.close()
    with pytest.raises(EngineStoppedError):
        batcher.enqueue(late, IMAGE)
    with pytest.raises(EngineStoppedError):
        batcher.admit(time.monotonic() + 60)
    assert batcher.take() == works
    assert batcher.take() == []


async def test_an_engine_with_other_work_does_not_wait():
    batcher = Batcher(max_batch=2, capacity=9, linger_s=30)
    assert batcher.take(wait=False) == []
    put(batcher, expires_in_s=-1)
    assert batcher.take(wait=False) == []
    work = put(batcher)
    assert batcher.take(wait=False) == [work]


async def test_expired_work_alone_does_not_end_the_engine():
    batcher = Batcher(max_batch=2, capacity=9)
    put(batcher, expires_in_s=-1)
    taken: list[list[Work]] = []
    thread = threading.Thread(target=lambda: taken.append(batcher.take()))
    thread.start()
    await asyncio.sleep(0.05)
    assert taken == []
    work = put(batcher)
    await asyncio.to_thread(thread.join, 10)
    assert taken == [[work]]

"""The queue, by a clock that the test sets: who is let in, whose turn it is, how large a batch gets."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from served_models import inference_request, served_model

from server.errors import EngineStoppedError, ExpiredError, QueueFullError, TooLateError
from server.inference.batcher import Batcher
from server.inference.request import HIGH, LOW, NORMAL, InferenceRequest
from server.models.latency_model import LatencyModel
from server.models.served_model import ServedModel


def model(*, limit: int = 4, batch_s: float = 1e-6) -> ServedModel:
    """A batch of any size takes `batch_s`; the largest pays most."""
    return served_model(LatencyModel({limit: batch_s} if limit == 1 else {1: batch_s, limit: batch_s}))


class Queue(Batcher):
    def __init__(self, served: ServedModel | None = None, capacity: int = 99, **settings: Any) -> None:
        self.now_s = 0.0
        self.dropped: list[str] = []
        self.served = served or model()
        super().__init__(capacity=capacity, on_drop=self.dropped.append, clock=lambda: self.now_s, **settings)

    def let_in(self, expires_s: float = 60.0, **fields: Any) -> InferenceRequest:
        request = inference_request(fields.pop("model", self.served), expires_s=expires_s, **fields)
        self.admit(request)
        return request

    def put(self, expires_s: float = 60.0, **fields: Any) -> InferenceRequest:
        request = self.let_in(expires_s, **fields)
        self.enqueue([request])
        return request


async def outcome(request: InferenceRequest) -> object:
    """What a request is finished with by callbacks that are due."""
    await asyncio.sleep(0)
    return request.outcome


async def test_takes_what_waits_up_to_the_limit_in_order():
    queue = Queue(model(limit=3))
    works = [queue.put() for _ in range(5)]
    assert queue.take() == works[:3]
    assert queue.take() == works[3:]
    assert queue.pending == 0


async def test_the_soonest_deadline_goes_first():
    queue = Queue(model(limit=1))
    works = [queue.put(expires_s) for expires_s in (30.0, 10.0, 20.0)]
    assert [queue.take()[0] for _ in range(3)] == [works[1], works[2], works[0]]


async def test_priority_goes_before_deadline_and_client():
    queue = Queue(model(limit=1))
    low, normal, high = queue.put(5.0, priority=LOW), queue.put(10.0), queue.put(50.0, priority=HIGH)
    assert [queue.take()[0] for _ in range(3)] == [high, normal, low]


async def test_clients_take_turns_whatever_each_of_them_sends():
    queue = Queue(model(limit=2))
    flood = [queue.put(client="flood") for _ in range(6)]
    small = [queue.put(client="small") for _ in range(2)]
    assert queue.take() == [flood[0], small[0]]
    assert queue.take() == [flood[1], small[1]]
    assert queue.take() == flood[2:4]


async def test_a_batch_holds_works_of_one_detector():
    queue = Queue()
    other = model()
    mine, theirs, mine_too = queue.put(), queue.put(model=other), queue.put()
    assert queue.take() == [mine, mine_too]
    assert queue.take() == [theirs]


async def test_a_batch_stays_small_where_its_first_image_would_be_late():
    queue = Queue(served_model(LatencyModel({1: 1.0, 2: 1.1, 4: 1.3})))
    urgent, others = queue.put(1.2), [queue.put(9.0) for _ in range(3)]
    assert queue.take() == [urgent, others[0]]
    assert queue.take() == others[1:]


async def test_what_would_be_late_is_refused_at_once_with_a_time_to_come_back():
    queue = Queue(model(limit=2, batch_s=1.0))
    for _ in range(4):
        queue.put(2.4)
    with pytest.raises(TooLateError, match="4 images wait: this one would be 530 ms late") as caught:
        queue.let_in(2.5)
    assert caught.value.retry_after_s == pytest.approx(0.53)
    assert queue.pending == 4


async def test_a_soon_deadline_counts_only_what_goes_before_it():
    queue = Queue(model(limit=1, batch_s=1.0))
    for _ in range(4):
        queue.put(60.0)
    assert queue.let_in(1.5)
    with pytest.raises(QueueFullError):
        queue.let_in(1.6)


async def test_who_will_join_the_batch_counts():
    queue = Queue(served_model(LatencyModel({1: 1.0, 8: 4.0})))
    queue.put()
    queue.take()
    assert queue.let_in(2.5)  # alone: done after 1 + 1 s
    for _ in range(50):
        with contextlib.suppress(TooLateError):
            queue.leave(queue.let_in(2.5))
    with pytest.raises(TooLateError):  # among so many: 1 + 4 s
        queue.let_in(4.5)


async def test_the_running_batch_counts():
    queue = Queue(model(limit=1, batch_s=1.0))
    queue.put()
    queue.take()
    queue.now_s = 0.4
    with pytest.raises(QueueFullError):
        queue.let_in(1.9)
    assert queue.let_in(2.1)


async def test_engines_share_what_waits():
    queue = Queue(model(limit=1, batch_s=1.0), engines=2)
    for _ in range(4):
        queue.put()
    assert queue.let_in(3.5, client="another", priority=LOW)  # the fifth of two engines: after 3 s
    queue.take(0)
    with pytest.raises(TooLateError):  # one engine is busy, the other is not yet: three wait before it
        queue.let_in(1.9, client="third", priority=LOW)


async def test_a_deadline_that_no_server_could_meet_is_told_so():
    queue = Queue(model(batch_s=0.5))
    assert queue.put(0.4).probe
    queue.take()
    with pytest.raises(ExpiredError, match="an image takes 500 ms here"):
        queue.let_in(0.4)


async def test_an_idle_engine_tries_again_once_a_second_after_a_slow_minute():
    """Where every image is refused, none teaches that the machine is fast again."""
    queue = Queue(model(limit=1, batch_s=0.1))
    for _ in range(100):
        queue.served.latency.observe(3.0, 1)
    tried = 0
    for step in range(50):
        queue.now_s = step / 10
        try:
            work = queue.put(queue.now_s + 1.0)
        except ExpiredError:
            continue
        assert queue.take() == [work]
        tried += 1
    assert tried == 5


async def test_late_work_is_dropped_and_told_at_once():
    queue = Queue(model(limit=1, batch_s=1.0))
    first, second = queue.put(5.0), queue.put(5.0)
    assert queue.take() == [first]
    queue.now_s = 4.5
    queue.close()
    assert queue.take() == []
    error = await outcome(second)
    assert isinstance(error, ExpiredError) and "it would be late" in str(error)
    assert queue.dropped == ["late"]
    assert queue.pending == 0


async def test_a_place_is_held_while_decoding_and_given_back_once():
    queue = Queue(capacity=2)
    decoding, queued = queue.let_in(60.0), queue.put()
    with pytest.raises(QueueFullError, match="2 images wait"):
        queue.let_in(60.0)
    queue.leave(decoding)
    queue.leave(decoding)
    assert queue.pending == 1
    assert queue.take() == [queued]
    queue.leave(queued)
    assert queue.pending == 0


async def test_who_left_while_its_image_was_decoded_is_not_queued():
    queue = Queue()
    gone, here = queue.let_in(60.0), queue.put()
    queue.leave(gone)
    queue.enqueue([gone])
    assert (queue.pending, queue.queued) == (1, 1)
    assert queue.take() == [here]


async def test_bytes_are_bounded_but_one_image_is_always_let_in():
    queue = Queue(capacity_bytes=100)
    large = queue.put(size_bytes=500)
    with pytest.raises(QueueFullError):
        queue.put(size_bytes=1)
    assert queue.take() == [large]
    for _ in range(4):
        queue.put(size_bytes=25)
    with pytest.raises(QueueFullError):
        queue.put(size_bytes=1)


async def test_where_places_run_out_the_flood_gives_one_up():
    queue = Queue(capacity=4)
    flood = [queue.put(client="flood") for _ in range(4)]
    small = queue.put(client="small")
    assert isinstance(await outcome(flood[-1]), QueueFullError)
    with pytest.raises(QueueFullError):
        queue.put(client="flood")
    assert queue.take() == [flood[0], small, flood[1], flood[2]]
    assert queue.dropped == ["displaced"]


async def test_nobody_gives_up_a_place_for_one_that_is_refused_nevertheless():
    queue = Queue(model(limit=9), capacity_bytes=100)
    flood = [queue.put(client="flood", size_bytes=25) for _ in range(4)]
    with pytest.raises(QueueFullError):
        queue.put(client="small", size_bytes=90)  # the flood's last image is as dear as this one
    assert queue.pending == 4
    fits = queue.put(client="small", size_bytes=50)
    assert queue.take() == [flood[0], fits, flood[1]]
    assert queue.dropped == ["displaced", "displaced"]
    assert queue.pending == 0


async def test_where_places_run_out_low_priority_gives_one_up():
    queue = Queue(capacity=2)
    low = [queue.put(priority=LOW) for _ in range(2)]
    normal = queue.put()
    assert queue.take() == [normal, low[0]]
    assert isinstance(await outcome(low[1]), QueueFullError)


async def test_dropped_work_is_counted_by_reason():
    queue = Queue()
    expired, gone, alive, abandoned = (queue.put(each) for each in (1.0, 60.0, 60.0, 60.0))
    gone.outcome = asyncio.CancelledError()
    queue.leave(abandoned)
    queue.now_s = 2.0
    assert queue.take() == [alive]
    assert sorted(queue.dropped) == ["cancelled", "cancelled", "expired"]
    assert queue.pending == 0
    assert await outcome(expired) is None


async def test_linger_waits_for_a_full_batch():
    queue = Queue(model(limit=2), linger_s=30)
    taken: list[list[InferenceRequest]] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    works = [queue.put()]
    thread.start()
    await asyncio.sleep(0.05)
    assert taken == []
    works.append(queue.put())
    await asyncio.to_thread(thread.join, 10)
    assert taken == [works]


async def test_closed_hands_out_the_rest_and_takes_no_more():
    queue = Queue()
    late = queue.let_in(60.0)
    works = [queue.put()]
    queue.close()
    queue.enqueue([late])
    assert isinstance(await outcome(late), EngineStoppedError)
    with pytest.raises(EngineStoppedError):
        queue.let_in(60.0)
    assert queue.take() == works
    assert queue.take() == []


async def test_expired_work_alone_does_not_end_the_engine():
    queue = Queue()
    queue.put(1.0)
    queue.now_s = 2.0
    taken: list[list[InferenceRequest]] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    await asyncio.sleep(0.05)
    assert taken == []
    work = queue.put()
    await asyncio.to_thread(thread.join, 10)
    assert taken == [[work]]


@pytest.mark.parametrize("priority", [NORMAL, HIGH])
async def test_a_nearly_late_work_is_passed_over_for_a_full_batch_but_not_for_a_lower_priority(priority: int):
    queue = Queue(served_model(LatencyModel({1: 1.0, 2: 1.3, 4: 1.6})))
    late, full = queue.put(2.3, priority=priority), [queue.put(3.0) for _ in range(4)]
    queue.now_s = 1.2  # in time alone, or the four together
    assert queue.take() == (full if priority == NORMAL else [late])

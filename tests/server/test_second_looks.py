"""The works that wait for a second look, by a clock that the test sets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fake_detector import SIZE, FakeDetector
from torch import Tensor

from detector.detector import Verdict
from server.inference.latency_model import Pace
from server.inference.request import Answer, Work
from server.inference.staging import Staging
from server.inference.warm_up import Warm
from server.second_look import SecondLooks


class Bench(FakeDetector):
    """A detector whose second looks take `look_s` on the test's clock, and all that stands around it."""

    def __init__(self, look_s: float = 1.0, batch: int = 2, capacity: int = 64) -> None:
        super().__init__(thorough=True)
        self.now_s, self.look_s, self.fast_queued = 0.0, look_s, 0
        self.given: dict[int, str] = {}  # label: effort, in the order of the answers
        self.looks = SecondLooks(
            self,
            self._given,
            lambda: self.fast_queued,
            Staging("cpu").batch,
            batch=batch,
            capacity=capacity,
            clock=lambda: self.now_s,
        )
        self.looks.warm_up()
        self.forget()
        self.now_s = 0.0

    def _given(self, works: Sequence[Work], answers: Sequence[Answer]) -> None:
        for work, answer in zip(works, answers, strict=True):
            work.answer.set_result(answer)
            self.given[answer.verdict.label] = answer.verdict.effort

    def reconsider(self, images: Tensor, verdicts: Sequence[Verdict]) -> list[Verdict]:
        self.now_s += self.look_s
        return super().reconsider(images, verdicts)

    def admit(self, label: int, expires_s: float) -> Answer | None:
        image = np.full((SIZE, SIZE, 3), label, np.uint8)
        answer_to = asyncio.get_running_loop().create_future()
        work = Work(Warm((self,), Pace({1: 0.0})), expires_s, answer_to, True)
        work.image = image
        answer = self.looks.admit(work, Answer(self.detect(Staging("cpu").batch([image]))[0], 0.0, 0.1, 1))
        if answer is None:
            self.last = work
        return answer


async def test_waits_while_fast_work_is_queued_until_the_deadline_presses():
    bench = Bench()
    bench.fast_queued = 5
    assert bench.admit(150, expires_s=100.0) is None
    for bench.now_s in (1.0, 50.0, 96.9):
        bench.looks.turn()
        assert bench.second_looks == []
    bench.now_s = 97.5
    bench.looks.turn()
    assert bench.given == {150: "thorough"}
    answer = bench.last.answer.result()
    assert (answer.queue_s, answer.compute_s) == (pytest.approx(97.5), pytest.approx(1.1))


async def test_runs_at_once_when_nothing_is_queued_soonest_deadline_first():
    bench = Bench()
    for label, expires_s in ((150, 300.0), (151, 100.0), (152, 200.0)):
        bench.admit(label, expires_s)
    bench.looks.turn()
    bench.looks.turn()
    assert bench.second_looks == [[151, 152], [150]]
    assert not bench.looks


async def test_two_groups_in_a_row_need_the_fast_work_between_them_done():
    bench = Bench()
    bench.fast_queued = 3
    for label in range(150, 154):
        bench.admit(label, expires_s=4.0)
    bench.now_s = 1.0
    bench.looks.turn()
    bench.looks.turn()
    assert len(bench.second_looks) == 1  # the three have waited for one group
    bench.looks.observe(0.0, 2)
    bench.looks.turn()
    assert len(bench.second_looks) == 1
    bench.looks.observe(0.0, 1)
    bench.looks.turn()
    assert len(bench.second_looks) == 2


async def test_what_a_long_group_has_made_late_is_answered_fast_before_more_fast_work():
    bench = Bench()
    bench.fast_queued = 1
    for label, expires_s in ((150, 4.0), (151, 4.0), (152, 4.5)):
        bench.admit(label, expires_s)
    bench.now_s, bench.look_s = 1.5, 2.0
    bench.looks.turn()
    assert bench.given == {150: "thorough", 151: "thorough", 152: "fast"}


@pytest.mark.parametrize("look_s, fast_s", [(1.0, 0.1), (0.1, 1.0)])
async def test_no_time_is_known_from_what_work_takes(look_s: float, fast_s: float):
    bench = Bench(look_s)
    bench.looks.observe(fast_s, 8)
    start_s = bench.now_s
    answer = bench.admit(150, expires_s=start_s + 1.9)
    assert answer is not None and answer.verdict.effort == "fast"
    assert bench.admit(151, expires_s=start_s + 2.1) is None
    bench.now_s += 0.2
    bench.looks.turn()
    assert bench.given == {151: "fast"}
    assert bench.second_looks == []


async def test_one_slow_group_does_not_end_second_looks_for_good():
    bench = Bench(look_s=1.0)
    bench.look_s = 50.0
    bench.admit(150, math.inf)
    bench.looks.turn()
    bench.look_s = 1.0
    tries = 0
    while bench.admit(151, bench.now_s + 10.0) is not None:
        tries += 1
        assert tries < 50
    bench.looks.turn()
    assert bench.given[151] == "thorough"
    for _ in range(50):
        assert bench.admit(152, bench.now_s + 1.9) is not None  # but never below what the warm-up took


async def test_the_list_is_bounded_and_the_abandoned_make_room():
    bench = Bench(capacity=2)
    assert bench.admit(150, 100.0) is None
    abandoned = bench.last
    assert bench.admit(151, 100.0) is None
    assert bench.admit(152, 100.0) is not None
    abandoned.answer.cancel()
    assert bench.admit(153, 100.0) is None
    bench.looks.turn()
    assert bench.second_looks == [[151, 153]]


async def test_images_that_do_not_fit_into_memory_have_their_fast_answers(monkeypatch: pytest.MonkeyPatch):
    def full(images: object) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    bench = Bench()
    monkeypatch.setattr(bench.looks, "_images", full)
    assert bench.admit(150, expires_s=100.0) is None
    bench.looks.turn()
    assert bench.given == {150: "fast"} and not bench.looks


async def test_giving_up_answers_all_that_wait():
    bench = Bench()
    for label in (150, 151, 152):
        bench.admit(label, 100.0)
    bench.looks.give_up()
    assert bench.given == {150: "fast", 151: "fast", 152: "fast"}
    assert not bench.looks

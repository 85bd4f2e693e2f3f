"""Effort THOROUGH: *undecided works that asked for it* → **a second look, or the fast answer in time**.

    fast batch ─▶ admit ─┬─▶ at once: decided, not asked for, no room, or no time
                         └─▶ [ waiting, soonest deadline first ] ─▶ turn ─▶ a group reconsidered ─▶ answers

A group runs while no fast work is queued, or when a deadline presses and every fast work that had to wait for the last
group has been taken: so no image waits for more than one group of others. Lives on the engine thread, but for `hurry`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Detector, Verdict
from server.errors import DetectionError
from server.inference.request import Answer, Work

__all__ = ["SecondLooks"]

log = logging.getLogger("heatward.engine")

SAFETY = 2.0
"""A second look is begun only where this many times the longest piece of work still fits before the deadline."""
MEMORY = 0.8
FADING = 0.9


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: Work
    answer: Answer  # of the fast batch
    since_s: float


class SecondLooks:
    """The works that wait for a second look.

    Args:
        detector: Reconsiders; only the calling thread may use it meanwhile.
        deliver: Sends answers to those who wait for them.
        queued: How many fast works wait now.
        images: Makes one batch of the works' images.
        batch: Most images in a group.
        capacity: Most works waiting; one more is answered at once. 0: no second looks.
        on_group: Told the seconds of each group.
        clock: `time.monotonic`, or a test's.
    """

    def __init__(
        self,
        detector: Detector,
        deliver: Callable[[Sequence[Work], Sequence[Answer]], None],
        queued: Callable[[], int],
        images: Callable[[Sequence[NDArray[np.uint8]]], Tensor],
        *,
        batch: int,
        capacity: int,
        on_group: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._detector = detector
        self._deliver = deliver
        self._queued = queued
        self._images = images
        self._batch = batch
        self._capacity = capacity if detector.thorough else 0
        self._on_group = on_group
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._group_s: dict[int, float] = {}  # by images in the group
        self._floor_s = 0.0
        self._fast_s = 0.0
        self._owed = 0  # fast works, queued or since taken, that had to wait for the last group
        self._until_s = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def warm_up(self) -> None:
        """Reconsiders grey images, and so learns what a full group takes."""
        if not self._capacity:
            return
        grey = torch.full((self._batch, 3, *self._detector.classifier.input_size), 0.5)
        verdicts = self._detector.detect(grey)
        for _ in range(2):  # the first pays for first use
            started_s = self._clock()
            self._detector.reconsider(grey, verdicts)
            self._floor_s = self._clock() - started_s
        self._group_s[self._batch] = self._floor_s

    def hurry(self, until_s: float) -> None:
        """Has every work answered by then, whatever its deadline. Call it from any thread."""
        self._until_s = until_s

    def observe(self, seconds: float, images: int) -> None:
        """Learns that a fast batch of so many works was taken, and what it took."""
        self._fast_s = _learned(self._fast_s, seconds)
        self._owed = max(0, self._owed - images)

    def admit(self, work: Work, answer: Answer) -> Answer | None:
        """What to answer now: None where work joins those that wait.

        Args:
            work: As taken from the queue.
            answer: Of the fast batch.
        """
        if not (work.thorough and self._capacity):
            return answer
        if not self._detector.undecided(answer.verdict):
            return replace(answer, verdict=replace(answer.verdict, effort="thorough"))
        self._forget_abandoned()
        if len(self._waiting) >= self._capacity:
            return answer
        if self._is_late(work):
            self._fade()
            return answer
        self._waiting.append(_Waiting(work, answer, self._clock()))
        return None

    def turn(self) -> None:
        """Between two fast batches: gives the fast answer where time is up, and reconsiders one group where it may."""
        self._forget_abandoned()
        self._answer_late()
        if not self._waiting:
            return
        self._waiting.sort(key=lambda waiting: waiting.work.expires_s)
        if not self._queued():
            self._owed = 0
        elif self._owed or not self._presses(self._waiting[0].work):
            return
        self._reconsider(self._waiting[: self._batch])
        self._owed = self._queued()
        self._answer_late()

    def give_up(self) -> None:
        """Gives every work that still waits its fast answer."""
        self._answer_fast(self._waiting)

    def _latest_start_s(self, work: Work) -> float:
        return min(work.expires_s, self._until_s) - SAFETY * self._longest_s()

    def _is_late(self, work: Work) -> bool:
        return self._latest_start_s(work) < self._clock()

    def _presses(self, work: Work) -> bool:
        """After another fast batch it would be too late."""
        return self._latest_start_s(work) - self._longest_s() <= self._clock()

    def _longest_s(self) -> float:
        """The longest that the engine may be at work before it can look at the time again."""
        size = min(max(len(self._waiting), 1), self._batch)
        return max(self._fast_s, self._group_s.get(size, self._group_s.get(self._batch, 0.0)))

    def _reconsider(self, group: list[_Waiting]) -> None:
        started_s = self._clock()
        verdicts = self._verdicts(group)
        seconds = self._clock() - started_s
        self._on_group(seconds)
        if verdicts is None:
            self._answer_fast(group)
            return
        self._group_s[len(group)] = _learned(self._group_s.get(len(group), 0.0), seconds)
        self._leave(
            group,
            [
                replace(
                    waiting.answer,
                    verdict=verdict,
                    queue_s=waiting.answer.queue_s + started_s - waiting.since_s,
                    compute_s=waiting.answer.compute_s + seconds,
                )
                for waiting, verdict in zip(group, verdicts, strict=True)
            ],
        )

    def _verdicts(self, group: list[_Waiting]) -> list[Verdict] | None:
        """None where the detector failed: the fast answers stand."""
        try:
            images = self._images([waiting.work.image for waiting in group])
            verdicts = self._detector.reconsider(images, [waiting.answer.verdict for waiting in group])
            if len(verdicts) != len(group):
                raise DetectionError(f"the detector gave {len(verdicts)} second looks for {len(group)} images")
            return verdicts
        except Exception as error:
            log.error("a second look failed: its images are answered fast", exc_info=error)
            return None

    def _fade(self) -> None:
        """Lets one slow group be forgotten, where the fear of another keeps every work from a second look."""
        for size, seconds in self._group_s.items():
            if seconds > self._floor_s:
                self._group_s[size] = max(self._floor_s, FADING * seconds)

    def _answer_late(self) -> None:
        self._answer_fast([waiting for waiting in self._waiting if self._is_late(waiting.work)])

    def _answer_fast(self, group: list[_Waiting]) -> None:
        if not group:
            return
        now_s = self._clock()
        self._leave(
            group,
            [replace(waiting.answer, queue_s=waiting.answer.queue_s + now_s - waiting.since_s) for waiting in group],
        )

    def _leave(self, group: list[_Waiting], answers: list[Answer]) -> None:
        self._deliver([waiting.work for waiting in group], answers)
        left = {id(waiting) for waiting in group}
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in left]

    def _forget_abandoned(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting.work.answer.done()]


def _learned(known_s: float, seen_s: float) -> float:
    """A running estimate that rises at once and falls slowly: too high costs a second look, too low a deadline."""
    return max(seen_s, MEMORY * known_s + (1 - MEMORY) * seen_s)

"""The one queue between the event loop and the engine thread.

    admit ─▶ (decode) ─▶ enqueue ─▶ [ queue ] ─▶ take, as many as pay and are in time ─▶ engine
                  └── leave: cancelled, expired or refused work gives its place back

Admission predicts when an image would be done and refuses at once what would be late. Order: priority, then clients in
turn, then the soonest deadline. Work-conserving: a free engine takes whatever waits, at once, so batches grow exactly
when the engine is busy. An image holds one of `capacity` places from before it is decoded until the engine takes it;
that bounds the memory of waiting. Where places run out, the client that holds most of them gives one up.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence

from detector.errors import HeatwardError
from server.errors import EngineStoppedError, ExpiredError, QueueFullError
from server.inference.admission import Admission, best_batch, soon
from server.inference.fair_queue import NORMAL, Turns
from server.inference.request import Answer, Work
from server.inference.warm_up import Warm

__all__ = ["STOPPED", "Batcher"]

STOPPED = "the engine has stopped: send the request to another server"


class Batcher:
    """A bounded queue of work, filled by the event loop and emptied by engine threads.

    Args:
        engines: How many take from the queue.
        capacity: Most images waiting, decoding ones included.
        capacity_bytes: What they may weigh together.
        linger_s: How long an idle engine waits for a batch to fill.
        on_drop: Told why work left unanswered ("expired", "late", "cancelled", "displaced"); called from any thread.
        clock: `time.monotonic`, or a test's.
    """

    def __init__(
        self,
        *,
        engines: int = 1,
        capacity: int,
        capacity_bytes: float = math.inf,
        linger_s: float = 0.0,
        on_drop: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._linger_s = linger_s
        self._on_drop = on_drop
        self._clock = clock
        self._changed = threading.Condition()
        self._turns: Turns[Work] = Turns()
        self._held = self._bytes = 0
        self._busy_until_s = [-math.inf] * engines  # when the batch that each took last should end
        self._admission = Admission(engines, clock())
        self._closed = False

    @property
    def pending(self) -> int:
        """Images waiting, decoding ones included."""
        return self._held

    @property
    def queued(self) -> int:
        """Images decoded and waiting for the engine."""
        return len(self._turns)

    def admit(
        self,
        warm: Warm,
        expires_s: float,
        *,
        client: str = "",
        priority: int = NORMAL,
        size_bytes: int = 0,
        request_id: str = "",
    ) -> Work:
        """Takes a place for an image that is about to be decoded. Call it on the event loop.

        Raises:
            QueueFullError: No place is left.
            TooLateError: The image would be done too late.
            ExpiredError: Not even an idle engine could be in time.
            EngineStoppedError: The queue is closed.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        work = Work(warm, expires_s, answer, client, priority, size_bytes, request_id)
        with self._changed:
            if self._closed:
                raise EngineStoppedError(STOPPED)
            free_s, ahead = min(self._busy_until_s), self._turns.ahead(work)
            self._admission.check(work, self._clock(), free_s=free_s, ahead=ahead, held=self._held)
            self._make_room(work)
            self._hold(work)
        return work

    def enqueue(self, works: Sequence[Work]) -> None:
        """Queues admitted works, now that they have their images, but for those that left. Call it from any thread."""
        with self._changed:
            now_s, closed = self._clock(), self._closed
            for work in works:
                if work.holds_place and not closed:
                    work.queued_s = now_s
                    self._turns.add(work)
            self._changed.notify(len(works))
        for work in works if closed else ():
            self.fail(work, EngineStoppedError(STOPPED))

    def fail(self, work: Work, error: Exception) -> None:
        """Ends admitted work that will not be queued. Call it from any thread."""
        with self._changed:
            self._free(work)
        work.answer.get_loop().call_soon_threadsafe(_fail, work, error)

    def leave(self, work: Work) -> None:
        """Gives back the place of work that nobody waits for any more; harmless where it is done."""
        work.answer.cancel()
        if not work.holds_place:
            return
        with self._changed:
            if self._turns.remove(work):
                self._on_drop("expired" if self._clock() >= work.expires_s else "cancelled")
            self._free(work)

    def take(self, engine: int = 0) -> list[Work]:
        """Blocks until there is work and returns the next batch; empty once the queue is closed and drained.

        Args:
            engine: Who takes, from 0.
        """
        with self._changed:
            self._busy_until_s[engine] = -math.inf
            while True:
                self._changed.wait_for(lambda: self._turns or self._closed)
                if self._linger_s:
                    self._changed.wait_for(self._is_full, self._linger_s)
                batch = self._pop(self._clock())
                if batch:
                    self._busy_until_s[engine] = self._clock() + batch[0].warm.pace.slow_s(len(batch))
                if batch or (self._closed and not self._turns):
                    return batch

    def close(self) -> None:
        """Accepts no more work; `take` still hands out what is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _make_room(self, newcomer: Work) -> None:
        """Takes places from the client that holds the most; raises, taking none, where that is the newcomer's own."""
        victims: list[Work] = []
        while self._held >= self._capacity or (self._held and self._bytes + newcomer.size_bytes > self._capacity_bytes):
            victim = self._turns.displaced_by(newcomer)
            if victim is None:
                for each in victims:
                    self._hold(each)
                    self._turns.add(each)
                raise self._full(newcomer)
            self._turns.remove(victim)
            self._free(victim)
            victims.append(victim)
        for victim in victims:
            self._drop(victim, "displaced", self._full(victim))

    def _full(self, work: Work) -> QueueFullError:
        return QueueFullError(
            f"the queue is full: {self._held} images wait; retry later, or start more servers",
            retry_after_s=soon(work.warm.pace.finish_s(max(self._held, 1))),
        )

    def _is_full(self) -> bool:
        return self._closed or (bool(self._turns) and len(self._turns) >= next(iter(self._turns)).warm.pace.limit)

    def _pop(self, now_s: float) -> list[Work]:
        """The next batch, of one detector: no larger than pays, and none in it late for the others' sake."""
        waiting: list[Work] = []
        for work in list(self._turns):
            if work.answer.done():
                self._remove(work, "cancelled")
            elif now_s >= work.expires_s:
                self._remove(work, "expired")  # whoever waits for it has a timer of its own
            elif not work.probe and now_s + work.warm.pace.usual_s(1) > work.expires_s:
                self._remove(
                    work,
                    "late",
                    ExpiredError("it would be late, so it was not computed: allow more time, or start more servers"),
                )
            elif not waiting or waiting[0].warm is work.warm:
                waiting.append(work)
        batch = best_batch(waiting, now_s)
        for work in batch:
            self._remove(work)
        return batch

    def _remove(self, work: Work, reason: str = "", error: HeatwardError | None = None) -> None:
        """Takes work out of the queue: for the engine or, with a reason, unanswered."""
        self._turns.remove(work, served=not reason)
        self._free(work)
        if reason:
            self._drop(work, reason, error)

    def _drop(self, work: Work, reason: str, error: HeatwardError | None) -> None:
        self._on_drop(reason)
        if error is not None:
            work.answer.get_loop().call_soon_threadsafe(_fail, work, error)

    def _hold(self, work: Work) -> None:
        work.holds_place = True
        self._turns.reserve(work)
        self._held += 1
        self._bytes += work.size_bytes

    def _free(self, work: Work) -> None:
        if work.holds_place:
            work.holds_place = False
            self._turns.release(work)
            self._held -= 1
            self._bytes -= work.size_bytes


def _fail(work: Work, error: Exception) -> None:
    if not work.answer.done():
        work.answer.set_exception(error)
        work.answer.exception()  # asked for here, so that asyncio does not warn where nobody waits

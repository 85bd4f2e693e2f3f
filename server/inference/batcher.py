"""The one queue between the event loop and the engine thread.

    admit ─▶ (decode) ─▶ enqueue ─▶ [ queue ] ─▶ take, as many as pay and are in time ─▶ engine
                  └── leave: a request that is cancelled, expired or refused gives its place back

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
from server.inference.fair_queue import FairQueue
from server.inference.request import InferenceRequest, State

__all__ = ["STOPPED", "Batcher"]

STOPPED = "the engine has stopped: send the request to another server"


class Batcher:
    """A bounded queue of requests, filled by the event loop and emptied by engine threads.

    Args:
        engines: How many take from the queue.
        capacity: Most images waiting, decoding ones included.
        capacity_bytes: What they may weigh together.
        linger_s: How long an idle engine waits for a batch to fill.
        on_drop: Told why a request left unanswered ("expired", "late", "cancelled", "displaced"); called from any
            thread.
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
        self._loop = asyncio.get_running_loop()
        self._queue: FairQueue = FairQueue()
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
        return len(self._queue)

    def admit(self, request: InferenceRequest) -> None:
        """Takes a place for a request whose image is about to be decoded. Call it on the event loop.

        Raises:
            QueueFullError: No place is left.
            TooLateError: The image would be done too late.
            ExpiredError: Not even an idle engine could be in time.
            EngineStoppedError: The queue is closed.
        """
        with self._changed:
            if self._closed:
                raise EngineStoppedError(STOPPED)
            free_s, ahead = min(self._busy_until_s), self._queue.ahead(request)
            self._admission.check(request, self._clock(), free_s=free_s, ahead=ahead, held=self._held)
            self._make_room(request)
            self._hold(request)

    def enqueue(self, requests: Sequence[InferenceRequest]) -> None:
        """Queues those that were admitted and have their images now, unless they left. Call it from any thread."""
        with self._changed:
            now_s, closed = self._clock(), self._closed
            for request in requests:
                if request.holds_place and not closed:
                    request.queued_s = now_s
                    request.state = State.QUEUED
                    self._queue.add(request)
            self._changed.notify(len(requests))
        for request in requests if closed else ():
            self.fail(request, EngineStoppedError(STOPPED))

    def fail(self, request: InferenceRequest, error: Exception) -> None:
        """Ends an admitted request that will not be queued. Call it from any thread."""
        with self._changed:
            self._free(request)
        self._loop.call_soon_threadsafe(request.finish, error)

    def leave(self, request: InferenceRequest) -> None:
        """Gives back the place of a request that nobody waits for any more; harmless where it has none."""
        if not request.holds_place:
            return
        with self._changed:
            if self._queue.remove(request):
                self._on_drop("expired" if self._clock() >= request.expires_s else "cancelled")
            self._free(request)

    def take(self, engine: int = 0) -> list[InferenceRequest]:
        """Blocks until there is work and returns the next batch; empty once the queue is closed and drained.

        Args:
            engine: Who takes, from 0.
        """
        with self._changed:
            self._busy_until_s[engine] = -math.inf
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._linger_s:
                    self._changed.wait_for(self._is_full, self._linger_s)
                batch = self._pop(self._clock())
                if batch:
                    self._busy_until_s[engine] = self._clock() + batch[0].model.latency.slow_s(len(batch))
                if batch or (self._closed and not self._queue):
                    return batch

    def close(self) -> None:
        """Accepts no more work; `take` still hands out what is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _make_room(self, newcomer: InferenceRequest) -> None:
        """Takes places from the client that holds the most; raises, taking none, where that is the newcomer's own."""
        victims: list[InferenceRequest] = []
        while self._held >= self._capacity or (self._held and self._bytes + newcomer.size_bytes > self._capacity_bytes):
            victim = self._queue.displaced_by(newcomer)
            if victim is None:
                for each in victims:
                    self._hold(each)
                    self._queue.add(each)
                raise self._full(newcomer)
            self._queue.remove(victim)
            self._free(victim)
            victims.append(victim)
        for victim in victims:
            self._drop(victim, "displaced", self._full(victim))

    def _full(self, request: InferenceRequest) -> QueueFullError:
        return QueueFullError(
            f"the queue is full: {self._held} images wait; retry later, or start more servers",
            retry_after_s=soon(request.model.latency.finish_s(max(self._held, 1))),
        )

    def _is_full(self) -> bool:
        return self._closed or (bool(self._queue) and len(self._queue) >= next(iter(self._queue)).model.latency.limit)

    def _pop(self, now_s: float) -> list[InferenceRequest]:
        """The next batch, of one model: no larger than pays, and none in it late for the others' sake."""
        waiting: list[InferenceRequest] = []
        for request in list(self._queue):
            if request.outcome is not None:
                self._remove(request, "cancelled")
            elif now_s >= request.expires_s:
                self._remove(request, "expired")  # whoever waits for it has a timer of its own
            elif not request.probe and now_s + request.model.latency.usual_s(1) > request.expires_s:
                self._remove(
                    request,
                    "late",
                    ExpiredError("it would be late, so it was not computed: allow more time, or start more servers"),
                )
            elif not waiting or waiting[0].model is request.model:
                waiting.append(request)
        batch = best_batch(waiting, now_s)
        for request in batch:
            self._remove(request)
        return batch

    def _remove(self, request: InferenceRequest, reason: str = "", error: HeatwardError | None = None) -> None:
        """Takes work out of the queue: for the engine or, with a reason, unanswered."""
        self._queue.remove(request, served=not reason)
        self._free(request)
        if reason:
            self._drop(request, reason, error)

    def _drop(self, request: InferenceRequest, reason: str, error: HeatwardError | None) -> None:
        self._on_drop(reason)
        if error is not None:
            self._loop.call_soon_threadsafe(request.finish, error)

    def _hold(self, request: InferenceRequest) -> None:
        request.state = State.ADMITTED
        self._queue.reserve(request)
        self._held += 1
        self._bytes += request.size_bytes

    def _free(self, request: InferenceRequest) -> None:
        if request.holds_place:
            request.state = State.TAKEN
            self._queue.release(request)
            self._held -= 1
            self._bytes -= request.size_bytes

"""The road of an image, whatever the protocol that it came by.

DetectRequest ─▶ validate ─▶ a place in the queue ─▶ decode (thread pool) ─▶ batcher ⇄ engine ─▶ Verdict

An image on its way is a `Trip`, moved on by callbacks: a task for each would cost more than all that is done here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from heatward.v1 import detection_pb2 as pb

from detector.errors import HeatwardError
from server.config import ServerConfig
from server.errors import ExpiredError
from server.inference.batcher import Batcher
from server.inference.request import Answer, Work
from server.models.registry import Role, Versions
from server.observers.metrics import Metrics
from server.observers.shadow import Shadow
from server.protocols.detection.answers import Loaded, to_verdict
from server.protocols.detection.overlay import overlay_png
from server.protocols.detection.requests import Ask, parse, prepare
from server.transport.calls import Call

__all__ = ["Judge", "Outcome", "Trip"]

SMALL_BYTES = 2**18  # raw pixels of the right size: sooner copied here than sent to another thread

Outcome = pb.Verdict | Exception
"""What comes of an image."""


@dataclass(eq=False, slots=True)
class Trip:
    """One image that has a place in the queue, until its outcome is told."""

    place: int
    """Among those that it was sent on its way with."""
    request: pb.DetectRequest
    call: Call
    ask: Ask
    loaded: Loaded
    work: Work
    arrived_s: float
    on_end: Callable[[int, Outcome], None]
    unseen: bool
    """For the shadow: not counted."""
    timer: asyncio.TimerHandle = field(init=False)
    decode_s: float = 0.0
    ended: bool = False


class Judge:
    """Gives verdicts. Call it on the event loop.

    Args:
        config: Limits and defaults.
        versions: The detectors.
        batcher: The queue to the engine.
        metrics: What is counted.
    """

    def __init__(self, config: ServerConfig, versions: Versions, batcher: Batcher, metrics: Metrics) -> None:
        self._config = config
        self._versions = versions
        self._batcher = batcher
        self._metrics = metrics
        self._limits = config.image_limits
        self._shadow = Shadow(metrics)
        # A decode thread must not spread one image over the cores that the model computes on.
        self._pool = ThreadPoolExecutor(config.decode_workers, "heatward-decode", lambda: torch.set_num_threads(1))

    def close(self) -> None:
        self._shadow.close()
        self._pool.shutdown(cancel_futures=True)

    async def verdict(self, request: pb.DetectRequest, path: str, call: Call) -> pb.Verdict:
        """Judges one image.

        Args:
            request: The image and its options.
            path: Where it stands in the call's message, for errors: "" or "requests[3].".
            call: That it came in.

        Raises:
            HeatwardError: There is no verdict; its `code` says why.
        """
        (outcome,) = await self._together([(path, request)], call, all_or_nothing=False)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def verdicts(
        self,
        count: int,
        at: Callable[[int], tuple[str, pb.DetectRequest]],
        call: Call,
        *,
        all_or_nothing: bool = False,
    ) -> list[Outcome]:
        """`verdict` for the images of one call, as many at once as it may have; each has a verdict or an error.

        Args:
            count: How many images.
            at: Gives the path and the request of each, when its turn comes: so few are held twice.
            call: That they came in.
            all_or_nothing: The first error ends the others, and is raised.
        """
        most = self._config.in_flight_per_call
        size = count if count <= most else max(1, most // 2)
        outcomes: list[Any] = [None] * count
        starts = iter(range(0, count, size))

        async def walk() -> None:
            for start in starts:
                part = [at(place) for place in range(start, min(start + size, count))]
                outcomes[start : start + size] = await self._together(part, call, all_or_nothing)

        if count <= most:
            await walk()
            return outcomes
        try:
            async with asyncio.TaskGroup() as group:  # one part is decoded while another is computed
                for _ in range(min(2, most)):
                    group.create_task(walk())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return outcomes

    async def _together(
        self, requests: Sequence[tuple[str, pb.DetectRequest]], call: Call, all_or_nothing: bool
    ) -> list[Outcome]:
        outcomes: list[Any] = [None] * len(requests)
        left = len(requests)
        all_ended = asyncio.get_running_loop().create_future()

        def ended(place: int, outcome: Outcome) -> None:
            nonlocal left
            outcomes[place] = outcome
            left -= 1
            if all_or_nothing and isinstance(outcome, Exception):
                if not all_ended.done():
                    all_ended.set_exception(outcome)
            elif not left and not all_ended.done():
                all_ended.set_result(None)

        trips = self.begin(requests, call, ended)
        try:
            await all_ended
        finally:
            self.give_up(trips)
        return outcomes

    def begin(
        self, requests: Sequence[tuple[str, pb.DetectRequest]], call: Call, on_end: Callable[[int, Outcome], None]
    ) -> list[Trip]:
        """Sends images on their way, and returns those that are.

        Args:
            requests: With their paths.
            call: That they came in.
            on_end: Told the place and the outcome of each image, once; of some before this returns.
        """
        trips = []
        for place, (path, request) in enumerate(requests):
            arrived_s = time.monotonic()
            try:
                call.quota.take()
                loaded = self._versions.choose(request.detector_version)
                trips.append(self._admit(place, request, path, call, loaded, on_end))
            except Exception as error:
                on_end(place, error)
                self._failed(call, error, arrived_s)
        self._decode(trips)
        return trips

    def give_up(self, trips: Iterable[Trip]) -> None:
        """Ends those that are still on their way, because nobody waits for them any more; tells nobody."""
        for trip in trips:
            if self._leave(trip) and not trip.unseen:
                self._failed(trip.call, asyncio.CancelledError(), trip.arrived_s)

    def _admit(
        self,
        place: int,
        request: pb.DetectRequest,
        path: str,
        call: Call,
        loaded: Loaded,
        on_end: Callable[[int, Outcome], None],
        *,
        unseen: bool = False,
    ) -> Trip:
        """Takes a place in the queue."""
        arrived_s = time.monotonic()
        ask = parse(
            request,
            path,
            default_rate=loaded.info.default_false_positive_rate,
            smallest_rate=loaded.smallest_rate,
        )
        work = self._batcher.admit(
            loaded.warm,
            call.expires_s(arrived_s, request.timeout_ms),
            client=call.client,
            priority=ask.priority,
            size_bytes=ask.image_bytes + loaded.image_bytes,
            request_id=ask.request_id or call.request_id,
        )
        trip = Trip(place, request, call, ask, loaded, work, arrived_s, on_end, unseen)
        trip.timer = work.answer.get_loop().call_later(work.expires_s - arrived_s, self._expire, trip)
        work.answer.add_done_callback(partial(self._answered, trip))
        return trip

    def _decode(self, trips: Sequence[Trip]) -> None:
        """Has the images decoded and queued: small raw ones here, others on the pool."""
        small = []
        for trip in trips:
            if trip.ask.raw_size == trip.loaded.input_size and trip.ask.image_bytes <= SMALL_BYTES:
                small.append(trip)
            else:
                self._pool.submit(self._enqueue, [trip])
        self._enqueue(small)

    def _enqueue(self, trips: Sequence[Trip]) -> None:
        works = []
        for trip in trips:
            if not trip.work.holds_place:  # nobody waits for it any more
                continue
            try:
                trip.work.image, trip.decode_s = prepare(trip.ask, trip.loaded.detector.classifier, self._limits)
                works.append(trip.work)
            except Exception as error:
                self._batcher.fail(trip.work, error)
        self._batcher.enqueue(works)

    def _answered(self, trip: Trip, answered: asyncio.Future[Answer]) -> None:
        """The engine has answered, or there is a reason why it will not."""
        if trip.ended:
            return
        try:
            answer = answered.result()
            if trip.ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
                image, heatmap = trip.work.image, answer.verdict.heatmap
                drawing = answered.get_loop().run_in_executor(self._pool, overlay_png, image, heatmap)
                drawing.add_done_callback(lambda drawn: self._judged(trip, answer, drawn.result))
            else:
                self._judged(trip, answer)
        except Exception as error:
            self._end(trip, error)

    def _judged(self, trip: Trip, answer: Answer, png: Callable[[], bytes] = bytes) -> None:
        """All is there that the verdict is written from."""
        try:
            total_s = time.monotonic() - trip.arrived_s
            self._end(trip, to_verdict(trip.ask, answer, trip.loaded, trip.decode_s, total_s, png()))
        except Exception as error:
            self._end(trip, error)

    def _expire(self, trip: Trip) -> None:
        self._end(trip, ExpiredError("the deadline passed before the answer was there"))

    def _end(self, trip: Trip, outcome: Outcome) -> None:
        """Tells and counts the outcome; does nothing where there has been one."""
        if not self._leave(trip):
            return
        trip.on_end(trip.place, outcome)
        if trip.unseen:
            return
        if isinstance(outcome, Exception):
            self._failed(trip.call, outcome, trip.arrived_s)
            return
        self._metrics.image(outcome)
        trip.call.trace.image(outcome)
        shadow = self._versions.get(Role.SHADOW)
        if shadow is not None and shadow is not trip.loaded:
            self._shadow.compare(outcome, partial(self._again, trip.request, outcome, trip.call, shadow))

    def _leave(self, trip: Trip) -> bool:
        """Whether it was still on its way."""
        if trip.ended:
            return False
        trip.ended = True
        trip.timer.cancel()
        self._batcher.leave(trip.work)
        return True

    def _failed(self, call: Call, error: BaseException, arrived_s: float) -> None:
        code = error.code if isinstance(error, HeatwardError) else "INTERNAL"
        if isinstance(error, asyncio.CancelledError):
            code = "CANCELLED"
        self._metrics.failed_image(code, error)
        call.trace.failed_image(time.monotonic() - arrived_s, code)

    async def _again(self, request: pb.DetectRequest, answered: pb.Verdict, call: Call, shadow: Loaded) -> pb.Verdict:
        """The same image, judged by the shadow."""
        rate = max(answered.false_positive_rate, shadow.smallest_rate)
        request = pb.DetectRequest(
            image=request.image,
            options=pb.Options(false_positive_rate=rate),
            priority=pb.PRIORITY_LOW,
        )
        call = Call(call.request_id, None, self._config.default_deadline_s)
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def end(place: int, outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        trip = self._admit(0, request, "", call, shadow, end, unseen=True)
        self._decode([trip])
        try:
            outcome = await ended
        finally:
            self.give_up([trip])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

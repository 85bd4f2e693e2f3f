"""The road of an image, whatever the protocol that it came by.

DetectRequest ─▶ validate ─▶ a place in the queue ─▶ decode (thread pool) ─▶ batcher ⇄ engine ─▶ Verdict

Images of one call walk side by side in one task, so that a call of many costs less than as many calls.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from typing import ParamSpec, TypeVar

import torch
from heatward.v1 import detection_pb2 as pb

from detector.errors import HeatwardError
from server.answers import Loaded, to_verdict
from server.batcher import Batcher
from server.bundles.shadow import Shadow
from server.bundles.versions import Role, Versions
from server.calls import Call
from server.config import ServerConfig
from server.errors import ExpiredError
from server.overlay import overlay_png
from server.requests import Ask, parse, prepare
from server.telemetry.metrics import Metrics
from server.work import Work

__all__ = ["Judge"]

SMALL_BYTES = 2**16  # raw pixels of the right size: quicker used here than sent to another thread

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Trip:
    """One image that has a place in the queue."""

    place: int
    """Among those that it walks with."""
    request: pb.DetectRequest
    ask: Ask
    loaded: Loaded
    work: Work
    arrived_s: float
    decode_s: float = 0.0
    png: asyncio.Future[bytes] | None = None


class Judge:
    """Gives verdicts.

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
        (outcome,) = await self.verdicts([(path, request)], call)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def verdicts(
        self, requests: Sequence[tuple[str, pb.DetectRequest]], call: Call
    ) -> list[pb.Verdict | Exception]:
        """`verdict` for images of one call, as many at once as it may have; each has a verdict or an error."""
        most = self._config.in_flight_per_call
        if len(requests) <= most:
            return await self._together(requests, call)
        size = max(1, most // 2)
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        outcomes: list[list[pb.Verdict | Exception]] = [[] for _ in parts]
        places = iter(range(len(parts)))

        async def walk() -> None:
            for place in places:
                outcomes[place] = await self._together(parts[place], call)

        await asyncio.gather(*(walk() for _ in range(min(2, most))))  # one part is decoded while another is computed
        return list(chain.from_iterable(outcomes))

    async def _together(
        self, requests: Sequence[tuple[str, pb.DetectRequest]], call: Call
    ) -> list[pb.Verdict | Exception]:
        started_s = time.monotonic()
        outcomes: dict[int, pb.Verdict | Exception] = {}
        trips: list[_Trip] = []

        def failed(error: BaseException) -> None:
            code = error.code if isinstance(error, HeatwardError) else "INTERNAL"
            if isinstance(error, asyncio.CancelledError):
                code = "CANCELLED"
            self._metrics.failed_image(code, error)
            call.trace.failed_image(time.monotonic() - started_s, code)

        for place, (path, request) in enumerate(requests):
            try:
                call.quota.take()
                trips.append(self._begin(place, request, path, call, self._versions.choose(request.detector_version)))
            except Exception as error:
                outcomes[place] = error
                failed(error)
        try:
            async for trip, outcome in self._walk(trips):
                outcomes[trip.place] = outcome
                if isinstance(outcome, Exception):
                    failed(outcome)
                else:
                    self._judged(trip, outcome, call)
        except asyncio.CancelledError as error:
            for _ in range(len(requests) - len(outcomes)):
                failed(error)
            raise
        return [outcomes[place] for place in range(len(requests))]

    def _begin(self, place: int, request: pb.DetectRequest, path: str, call: Call, loaded: Loaded) -> _Trip:
        """Takes a place in the queue."""
        arrived_s = time.monotonic()
        ask = parse(
            request,
            path,
            default_rate=loaded.info.default_false_positive_rate,
            smallest_rate=loaded.smallest_rate,
            default_effort=self._config.effort,
        )
        work = self._batcher.admit(
            loaded.warm,
            call.expires_s(arrived_s, request.timeout_ms),
            thorough=ask.effort == "thorough",
            client=call.client,
            priority=ask.priority,
            size_bytes=ask.image_bytes + loaded.image_bytes,
            request_id=ask.request_id or call.request_id,
        )
        return _Trip(place, request, ask, loaded, work, arrived_s)

    async def _walk(self, trips: Sequence[_Trip]) -> AsyncIterator[tuple[_Trip, pb.Verdict | Exception]]:
        """The road from the queue on: verdicts and errors as they come, those of the soonest deadline first."""
        try:
            self._decode(trips)
            for expires_s, group in groupby(sorted(trips, key=_expires_s), _expires_s):
                together = list(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(expires_s - time.monotonic()):
                        await self._answers(together)
                for trip in together:
                    yield trip, _outcome(trip)
        finally:
            for trip in trips:
                self._batcher.leave(trip.work)

    def _decode(self, trips: Sequence[_Trip]) -> None:
        """Has the images decoded and queued: small raw ones here, others on the pool."""
        small = []
        for trip in trips:
            if trip.ask.raw_size == trip.loaded.input_size and trip.ask.image_bytes <= SMALL_BYTES:
                small.append(trip)
            else:
                self._pool.submit(self._enqueue, [trip])
        self._enqueue(small)

    def _enqueue(self, trips: Sequence[_Trip]) -> None:
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

    async def _answers(self, trips: Sequence[_Trip]) -> None:
        """Waits until each has its answer, and its picture where one was asked for."""
        for trip in trips:
            with suppress(Exception):
                answer = await trip.work.answer
                if trip.ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
                    trip.png = self._in_pool(overlay_png, trip.work.image, answer.verdict.heatmap)
        for trip in trips:
            if trip.png is not None:
                with suppress(Exception):
                    await trip.png

    def _judged(self, trip: _Trip, verdict: pb.Verdict, call: Call) -> None:
        self._metrics.image(verdict, trip.ask.effort)
        call.trace.image(verdict)
        shadow = self._versions.get(Role.SHADOW)
        if shadow is not None and shadow is not trip.loaded:
            self._shadow.compare(verdict, lambda: self._again(trip.request, verdict, call, shadow))

    async def _again(self, request: pb.DetectRequest, answered: pb.Verdict, call: Call, shadow: Loaded) -> pb.Verdict:
        """The same image, judged by the shadow."""
        rate = max(answered.false_positive_rate, shadow.smallest_rate)
        unseen = pb.DetectRequest(
            image=request.image,
            options=pb.Options(false_positive_rate=rate),
            effort=pb.EFFORT_FAST,
            priority=pb.PRIORITY_LOW,
        )
        trip = self._begin(0, unseen, "", Call(call.request_id, None, self._config.default_deadline_s), shadow)
        ((_, outcome),) = [each async for each in self._walk([trip])]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args, **kwargs))


def _expires_s(trip: _Trip) -> float:
    return trip.work.expires_s


def _outcome(trip: _Trip) -> pb.Verdict | Exception:
    """What has come of it, now that it is done or its time is over."""
    try:
        answer, png = trip.work.answer.result(), trip.png.result() if trip.png else b""
        return to_verdict(trip.ask, answer, trip.loaded, trip.decode_s, time.monotonic() - trip.arrived_s, png)
    except (asyncio.InvalidStateError, asyncio.CancelledError):
        return ExpiredError("the deadline passed before the answer was there")
    except Exception as error:
        return error

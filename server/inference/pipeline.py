"""The road of an image, whatever the protocol that it came by.

    InferenceRequest ─▶ a place in the queue ─▶ decode (thread pool) ─▶ batcher ⇄ engine ─▶ InferenceResult

Requests are moved on by callbacks: a task for each would cost more than all that is done here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from detector.heatmaps.overlay import overlay_png
from server.config import ServerConfig
from server.errors import ExpiredError
from server.inference.batcher import Batcher
from server.inference.context import RequestContext
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult, Outcome

__all__ = ["Pipeline"]

log = logging.getLogger("heatward.pipeline")

SMALL_BYTES = 2**18  # raw pixels of the right size: sooner copied here than sent to another thread

Read = Callable[[int], InferenceRequest]
"""Makes the request of an image by its place in the call's message."""
Tell = Callable[[int, Outcome], None]
"""Told the place and the outcome of a request."""


class Pipeline:
    """Takes requests and gives results. Call it on the event loop.

    Args:
        config: Limits and defaults.
        batcher: The queue to the engines.
        observer: Told of each request.
    """

    def __init__(self, config: ServerConfig, batcher: Batcher, observer: Observer) -> None:
        self._batcher = batcher
        self._observer = observer
        self._limits = config.image_limits
        self._most = config.in_flight_per_call
        self._loop = asyncio.get_running_loop()
        # A decode thread must not spread one image over the cores that the model computes on.
        self._pool = ThreadPoolExecutor(config.decode_workers, "heatward-decode", lambda: torch.set_num_threads(1))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def result(self, read: Read, context: RequestContext) -> InferenceResult:
        """Judges one image.

        Args:
            read: Makes its request.
            context: Of the call.

        Raises:
            HeatwardError: There is no result; its `code` says why.
        """
        (outcome,) = await self._together(range(1), read, context, all_or_nothing=False)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def results(
        self, count: int, read: Read, context: RequestContext, *, all_or_nothing: bool = False
    ) -> list[Outcome]:
        """`result` for the images of one call, as many at once as it may have; each has a result or an error.

        Args:
            count: How many images.
            read: Makes the request of each when its turn comes, so that few images are held twice.
            context: Of the call.
            all_or_nothing: The first error ends the others, and is raised.
        """
        if count <= self._most:
            return await self._together(range(count), read, context, all_or_nothing)
        size = max(1, self._most // 2)
        outcomes: list[Any] = [None] * count
        starts = iter(range(0, count, size))

        async def walk() -> None:
            for start in starts:
                part = range(start, min(start + size, count))
                outcomes[part.start : part.stop] = await self._together(part, read, context, all_or_nothing)

        try:
            async with asyncio.TaskGroup() as group:  # one part is decoded while another is computed
                for _ in range(min(2, self._most)):
                    group.create_task(walk())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return outcomes

    async def _together(
        self, places: range, read: Read, context: RequestContext, all_or_nothing: bool
    ) -> list[Outcome]:
        outcomes: list[Any] = [None] * len(places)
        left = len(places)
        all_ended = self._loop.create_future()

        def ended(place: int, outcome: Outcome) -> None:
            nonlocal left
            outcomes[place - places.start] = outcome
            left -= 1
            if all_or_nothing and isinstance(outcome, BaseException):
                if not all_ended.done():
                    all_ended.set_exception(outcome)
            elif not left and not all_ended.done():
                all_ended.set_result(None)

        requests = self.start(places, read, context, ended)
        try:
            await all_ended
        finally:
            self.cancel(requests)
        return outcomes

    def start(
        self, places: Iterable[int], read: Read, context: RequestContext, tell: Tell, *, observed: bool = True
    ) -> list[InferenceRequest]:
        """Sends requests on their way, and returns those that are.

        Args:
            places: Of their images.
            read: Makes the request of a place.
            context: Of the call.
            tell: Told each outcome, once; some of them before this returns.
            observed: Whether observers are told of them.
        """
        requests = []
        for place in places:
            arrived_s = time.monotonic()
            try:
                context.take()
                request = read(place)
                request.observed = observed
                self._admit(request, context, arrived_s)
            except Exception as error:
                tell(place, error)
                if observed:
                    self._observer.failed(context, error, time.monotonic() - arrived_s)
            else:
                request.on_finish = partial(self._finished, place, tell)
                request.timer = self._loop.call_later(request.expires_s - arrived_s, self._expire, request)
                requests.append(request)
        self._decode(requests)
        return requests

    def cancel(self, requests: Iterable[InferenceRequest]) -> None:
        """Ends those that are still on their way, because nobody waits for them any more; tells only observers."""
        for request in requests:
            if request.outcome is None:
                request.finish(asyncio.CancelledError())

    def deliver(self, requests: Sequence[InferenceRequest], outcomes: Sequence[Outcome]) -> None:
        """Ends requests with what an engine made of them; an overlay is drawn before, on the pool."""
        for request, outcome in zip(requests, outcomes, strict=True):
            try:
                if request.overlay and isinstance(outcome, InferenceResult) and request.outcome is None:
                    drawing = self._pool.submit(overlay_png, request.image, outcome.verdict.heatmap)
                    drawing.add_done_callback(partial(self._drawn, request, outcome))
                else:
                    request.finish(outcome)
            except Exception as error:  # of whoever is told: no neighbour must suffer
                log.error("a defect in the server", exc_info=error, extra={"request_id": request.request_id})

    def _admit(self, request: InferenceRequest, context: RequestContext, arrived_s: float) -> None:
        request.context = context
        request.client = context.client
        request.request_id = request.request_id or context.request_id
        request.size_bytes = request.source.size_bytes + request.model.image_bytes
        request.arrived_s = arrived_s
        request.expires_s = context.expires_s(arrived_s, request.timeout_ms)
        self._batcher.admit(request)

    def _decode(self, requests: Sequence[InferenceRequest]) -> None:
        """Has the images decoded and queued: small raw ones here, others on the pool."""
        small = []
        for request in requests:
            source = request.source
            if source.raw_size == request.model.input_size and source.size_bytes <= SMALL_BYTES:
                small.append(request)
            else:
                self._pool.submit(self._enqueue, [request])
        self._enqueue(small)

    def _enqueue(self, requests: Sequence[InferenceRequest]) -> None:
        decoded = []
        for request in requests:
            if not request.holds_place:  # nobody waits for it any more
                continue
            started_s = time.monotonic()
            try:
                request.image = self._image(request)
            except Exception as error:
                self._batcher.fail(request, error)
                continue
            request.decode_s = time.monotonic() - started_s
            decoded.append(request)
        self._batcher.enqueue(decoded)

    def _image(self, request: InferenceRequest) -> NDArray[Any]:
        """(H, W, 3) of the classifier's input size."""
        pixels = request.source.decode(self._limits)
        request.decoded_size = pixels.shape[0], pixels.shape[1]
        return request.model.detector.classifier.fit(pixels)

    def _drawn(self, request: InferenceRequest, result: InferenceResult, drawing: Future[bytes]) -> None:
        """Ends a request whose overlay is there. Called on the pool."""
        outcome: Outcome = result
        try:
            result.overlay = drawing.result()
        except BaseException as error:
            outcome = error
        self._loop.call_soon_threadsafe(request.finish, outcome)

    def _expire(self, request: InferenceRequest) -> None:
        request.finish(ExpiredError("the deadline passed before the answer was there"))

    def _finished(self, place: int, tell: Tell, request: InferenceRequest) -> None:
        request.timer.cancel()
        self._batcher.leave(request)
        outcome, seconds = request.outcome, time.monotonic() - request.arrived_s
        if isinstance(outcome, InferenceResult):
            outcome.total_s = seconds
            tell(place, outcome)
            if request.observed:
                self._observer.finished(request, outcome)
        elif outcome is not None:
            if not isinstance(outcome, asyncio.CancelledError):
                tell(place, outcome)
            if request.observed:
                self._observer.failed(request.context, outcome, seconds)

"""The client for asyncio: images go in, frozen dataclasses come out.

Retries, hedges, breaker and errors are those of `heatward.client.sync`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from heatward.client import checks
from heatward.client.base import SERVING, BaseClient
from heatward.client.batches import AT_ONCE, Part, Plan
from heatward.client.feedback import Labelled, feedback_request, labelled
from heatward.client.forks import asyncio_clients
from heatward.client.limits import ALONE_BYTES
from heatward.client.messages import HeatmapChoice, detect_request, detect_template, detector_info, verdict
from heatward.client.streams import MAX_IN_FLIGHT, Window, async_stream
from heatward.client.values import DetectorInfo, Failure, Verdict
from heatward.errors import arrived
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

__all__ = ["AsyncClient"]

CANCELLED_S = 0.25
"""grpc.aio hears of a cancelled call through the event loop, and stops that loop for good where the last channel goes
away before it has heard."""


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, the same answers, awaited. Open it inside the running loop."""

    _library = grpc.aio
    _cancelled_s = -math.inf
    """When a call was cancelled last."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        self._closed = True
        await self._channel.close()
        if (left_s := self._cancelled_s + CANCELLED_S - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        asyncio_clients.discard(self)

    async def detect(
        self,
        image: ImageInput,
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        max_error_rate: float | None = None,
        look_for_patches: bool = False,
        timeout_s: float | None = None,
    ) -> Verdict:
        """As `Client.detect`."""
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        request = detect_request(image, template)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            asks = request.ByteSize() > ALONE_BYTES
            self._check_size(request, await self._server_limits(budget_s) if asks else self._limits.get())
            call = partial(self._begin, self._stub.Detect, request)
            answer = call(budget_s) if self._hedge is None else self._hedge.call_async(call, budget_s)
            return verdict(arrived(await answer))

    async def detect_batch(
        self,
        images: Iterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        max_error_rate: float | None = None,
        look_for_patches: bool = False,
        timeout_s: float | None = None,
    ) -> list[Verdict | Failure]:
        """As `Client.detect_batch`."""
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        checks.several_images(images)
        budget_s = self._budget_s(timeout_s)
        plan = Plan(images, template, budget_s)
        flying: set[asyncio.Task[None]] = set()

        async def settle(part: Part, left_s: float) -> None:
            try:
                plan.settle(part, await self._begin(self._stub.DetectBatch, part.request, left_s))
            except grpc.RpcError as error:
                plan.fail(part, self._error(error))

        with self._guarded():
            try:
                for part in plan.parts():
                    if part is None:
                        plan.limits = await self._server_limits(budget_s)
                        continue
                    if len(flying) == AT_ONCE:
                        ended, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
                        await asyncio.gather(*ended)
                    if (left_s := plan.begin(part)) > 0:
                        flying.add(asyncio.create_task(settle(part, left_s)))
                await asyncio.gather(*flying)
            finally:
                for task in flying:
                    task.cancel()
            return plan.answers()

    def detect_stream(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        max_error_rate: float | None = None,
        look_for_patches: bool = False,
        timeout_s: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> AsyncIterator[tuple[int, Verdict | Failure]]:
        """As `Client.detect_stream`; `images` may also be an asynchronous iterable."""
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        checks.several_images(images, asynchronous=True)
        budget_s, count = self._budget_s(timeout_s), checks.count("max_in_flight", max_in_flight)
        self._check_usable()
        ask = partial(self._server_limits, budget_s)
        return async_stream(self._begin_stream, images, Window(template, budget_s), count, ask, self._error)

    async def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """As `Client.describe`."""
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            info = arrived(await self._begin(self._stub.GetDetector, pb.GetDetectorRequest(), budget_s))
        self._limits.learn(info)
        return detector_info(info)

    async def label(self, name: str, truth: str, true_label: str = "", *, timeout_s: float | None = None) -> Labelled:
        """As `Client.label`."""
        request = feedback_request(name, truth, true_label)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            return labelled(arrived(await self._begin(self._feedback.Feedback, request, budget_s)))

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """As `Client.health`."""
        name = StringValue(value=checks.service(service))
        budget_s = self._budget_s(timeout_s)
        with self._errors():
            async with self._connection.open(grpc.aio, health_checks=False) as channel:
                return bool(await self._begin(self._health_check(channel), name, budget_s) == SERVING)

    def _begin(self, method: Any, request: Any, budget_s: float) -> Any:
        return self._watched(method(request, **self._connection.call_arguments(budget_s)))

    def _begin_stream(self, requests: AsyncIterator[pb.DetectRequest]) -> Any:
        with self._errors():
            return self._watched(self._stub.DetectStream(requests, **self._connection.call_arguments(None)))

    def _watched(self, call: Any) -> Any:
        call.add_done_callback(self._ended)
        return call

    def _ended(self, call: Any) -> None:
        if call.cancelled():
            self._cancelled_s = time.monotonic()

    async def _server_limits(self, budget_s: float) -> pb.Limits:
        known = self._limits.get()
        if known is None:
            info = None
            with suppress(grpc.RpcError):
                info = await self._begin(self._stub.GetDetector, pb.GetDetectorRequest(), budget_s / 2)
            known = self._limits.learn(info)
        return known

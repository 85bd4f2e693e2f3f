"""The client for asyncio: images go in, frozen dataclasses come out.

Retries, hedges, breaker and errors are those of `heatward.client`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from heatward import checks
from heatward.base import BaseClient
from heatward.batches import Plan, async_batch
from heatward.errors import arrived
from heatward.feedback import Labelled, feedback_request, labelled
from heatward.forks import asyncio_clients
from heatward.health import CHECK, check_service, encode_request, is_serving
from heatward.images import ImageInput
from heatward.limits import ALONE_BYTES
from heatward.messages import HeatmapChoice, detect_request, detect_template, detector_info, verdict
from heatward.streams import MAX_IN_FLIGHT, async_stream
from heatward.v1 import detection_pb2 as pb
from heatward.values import DetectorInfo, Failure, Verdict

__all__ = ["AsyncClient"]


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, the same answers, awaited. Open it inside the running loop."""

    def _open(self, *, health_checks: bool = True) -> grpc.aio.Channel:
        asyncio_clients.add(self)
        return self._connection.open_async(health_checks=health_checks)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        self._closed = True
        await self._channel.close()
        asyncio_clients.discard(self)

    async def detect(
        self,
        image: ImageInput,
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """As `Client.detect`."""
        request = detect_request(image, detect_template(false_positive_rate, heatmap, top_k))
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            asks = request.ByteSize() > ALONE_BYTES
            self._check_size(request, await self._server_limits(budget_s) if asks else self._limits.get())
            if self._hedge is None:
                return verdict(arrived(await self._stub.Detect(request, **self._arguments(budget_s))))
            return verdict(
                arrived(
                    await self._hedge.call_async(
                        lambda left_s: self._stub.Detect(request, **self._arguments(left_s)), budget_s
                    )
                )
            )

    async def detect_batch(
        self,
        images: Iterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict | Failure]:
        """As `Client.detect_batch`."""
        template = detect_template(false_positive_rate, heatmap, top_k)
        checks.several_images(images)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            return await async_batch(
                images,
                Plan(template, budget_s),
                lambda: self._server_limits(budget_s),
                lambda request, left_s: self._stub.DetectBatch(request, **self._arguments(left_s)),
                self._error,
            )

    def detect_stream(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        timeout_s: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> AsyncIterator[tuple[int, Verdict | Failure]]:
        """As `Client.detect_stream`; `images` may also be an asynchronous iterable."""
        template = detect_template(false_positive_rate, heatmap, top_k)
        checks.several_images(images, asynchronous=True)
        budget_s, count = self._budget_s(timeout_s), checks.count("max_in_flight", max_in_flight)
        self._check_usable()
        ask = partial(self._server_limits, budget_s)
        return async_stream(self._begin_stream, images, template, budget_s, count, ask, self._error)

    async def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """As `Client.describe`."""
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            info = arrived(await self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(budget_s)))
        self._limits.learn(info)
        return detector_info(info)

    async def label(self, name: str, truth: str, true_label: str = "", *, timeout_s: float | None = None) -> Labelled:
        """As `Client.label`."""
        request = feedback_request(name, truth, true_label)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            return labelled(arrived(await self._feedback.Feedback(request, **self._arguments(budget_s))))

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """As `Client.health`."""
        check_service(service)
        budget_s = self._budget_s(timeout_s)
        with self._errors():
            async with self._open(health_checks=False) as channel:
                check = channel.unary_unary(CHECK, request_serializer=encode_request, response_deserializer=is_serving)
                return bool(await check(service, **self._arguments(budget_s)))

    def _begin_stream(self, requests: AsyncIterator[pb.DetectRequest]) -> Any:
        with self._errors():
            return self._stub.DetectStream(requests, **self._arguments(None))

    async def _server_limits(self, budget_s: float) -> pb.Limits:
        known = self._limits.get()
        if known is None:
            info = None
            with suppress(grpc.RpcError):
                info = await self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(budget_s / 2))
            known = self._limits.learn(info)
        return known

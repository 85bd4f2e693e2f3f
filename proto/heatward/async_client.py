"""The client for asyncio: images go in, frozen dataclasses come out.

Retries, hedges, breaker and errors are those of `heatward.client`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType

import grpc
import grpc.aio

from heatward.base import BaseClient
from heatward.errors import arrived, raised_as_detection_error
from heatward.health import CHECK, encode_request, is_serving
from heatward.images import ImageInput
from heatward.messages import HeatmapChoice, detect_request, detect_template, detector_info, result, verdict
from heatward.streams import MAX_IN_FLIGHT, async_stream
from heatward.v1 import detection_pb2 as pb
from heatward.values import DetectorInfo, Effort, Failure, Verdict

__all__ = ["AsyncClient"]


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, the same answers, awaited. Open it inside the running loop."""

    def _open(self, *, health_checks: bool = True) -> grpc.aio.Channel:
        return self._connection.open_async(health_checks=health_checks)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        await self._channel.close()

    async def detect(
        self,
        image: ImageInput,
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """As `Client.detect`."""
        request = detect_request(image, detect_template(false_positive_rate, heatmap, top_k, effort))
        with self._guarded():
            if self._hedge is None:
                return verdict(arrived(await self._stub.Detect(request, **self._arguments(timeout_s))))
            return verdict(
                arrived(
                    await self._hedge.call_async(
                        lambda left_s: self._stub.Detect(request, **self._arguments(left_s)), self._budget_s(timeout_s)
                    )
                )
            )

    async def detect_batch(
        self,
        images: Sequence[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict | Failure]:
        """As `Client.detect_batch`."""
        template = detect_template(false_positive_rate, heatmap, top_k, effort)
        batch = pb.DetectBatchRequest(requests=[detect_request(image, template) for image in images])
        with self._guarded():
            response = arrived(await self._stub.DetectBatch(batch, **self._arguments(timeout_s)))
        return [result(item) for item in response.results]

    def detect_stream(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> AsyncIterator[tuple[int, Verdict | Failure]]:
        """As `Client.detect_stream`; `images` may also be an asynchronous iterable."""
        return async_stream(
            lambda requests: self._stub.DetectStream(requests, **self._connection.call_arguments(None)),
            images,
            detect_template(false_positive_rate, heatmap, top_k, effort),
            self._budget_s(timeout_s),
            max_in_flight,
        )

    async def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """As `Client.describe`."""
        with self._guarded():
            return detector_info(
                arrived(await self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(timeout_s)))
            )

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """As `Client.health`."""
        async with self._open(health_checks=False) as channel:
            check = channel.unary_unary(CHECK, request_serializer=encode_request, response_deserializer=is_serving)
            with raised_as_detection_error():
                return bool(await check(service, **self._arguments(timeout_s)))

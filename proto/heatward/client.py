"""The clients: images go in, frozen dataclasses come out. `Client` for threads, `AsyncClient` for asyncio.

Every call has a deadline; UNAVAILABLE is retried within it, nothing else is. All other trouble is a `DetectionError`,
or, for one image of a batch or a stream, a `Failure` in its place.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType

from heatward.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Connection
from heatward.errors import raised_as_detection_error
from heatward.health import CHECK, encode_request, is_serving
from heatward.images import ImageInput
from heatward.messages import HeatmapChoice, detect_request, detect_template, detector_info, result, verdict
from heatward.streams import MAX_IN_FLIGHT, async_stream, stream
from heatward.v1 import detection_pb2 as pb
from heatward.v1.detection_pb2_grpc import DetectionServiceStub
from heatward.values import DetectorInfo, Effort, Failure, Verdict

__all__ = ["AsyncClient", "Client"]


class Client:
    """Asks a heatward server. Safe to share between threads; keep one for many calls.

    Args:
        address: "host:port" (or any gRPC target).
        timeout_s: Deadline of each call, unless the call names its own.
        tls: True for the system's root certificates, or a PEM file (path or bytes) of root certificates.
        token: Sent as `authorization: Bearer …`; combine it with TLS.
        wait_for_ready: Calls wait, within their deadline, for a server that is still starting.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool | bytes | str | os.PathLike[str] = False,
        token: str | None = None,
        wait_for_ready: bool = False,
    ) -> None:
        self.timeout_s = timeout_s
        self._connection = Connection(address, tls, token, wait_for_ready)
        self._channel = self._connection.open()
        self._stub = DetectionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        self._channel.close()

    def detect(
        self,
        image: ImageInput,
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
    ) -> Verdict:
        """Asks about one image.

        Args:
            image: A path, the bytes of an image file, a PIL image, or a uint8 array (H, W, 3) or (H, W).
            false_positive_rate: The share of clean images you accept to see flagged; None: the server's default.
            heatmap: "float" for the numbers, "png" for a picture.
            top_k: How many of the classifier's labels to return; None: the server's choice.
            effort: "thorough" looks again, with learned masks, at an image whose p-value lies near the thresholds, if
                the deadline leaves time: `Verdict.effort` says whether. None: the server's default.
            timeout_s: Deadline of this call.

        Raises:
            DetectionError: The server could not answer; `violations` name the fields it refused.
            OSError, TypeError, ValueError: The image cannot be read or is of no known kind; nothing was sent.
        """
        request = detect_request(image, detect_template(false_positive_rate, heatmap, top_k, effort))
        with raised_as_detection_error():
            return verdict(self._stub.Detect(request, **self._arguments(timeout_s)))

    def detect_batch(
        self,
        images: Sequence[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
    ) -> list[Verdict | Failure]:
        """Asks about several images in one call: an answer each, in their order.

        At most `describe().limits.max_batch` images; for more use `detect_stream`. Arguments and errors as `detect`.
        """
        template = detect_template(false_positive_rate, heatmap, top_k, effort)
        batch = pb.DetectBatchRequest(requests=[detect_request(image, template) for image in images])
        with raised_as_detection_error():
            response = self._stub.DetectBatch(batch, **self._arguments(timeout_s))
        return [result(item) for item in response.results]

    def detect_stream(
        self,
        images: Iterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """Asks about any number of images; yields (position in `images`, answer) as answers come, in any order.

        `images` is read on another thread, at most `max_in_flight` ahead of the answers. `timeout_s` is the longest
        that any one image may wait for its answer. Otherwise as `detect`.
        """
        return stream(
            lambda requests: self._stub.DetectStream(requests, **self._connection.call_arguments(None)),
            images,
            detect_template(false_positive_rate, heatmap, top_k, effort),
            self.timeout_s if timeout_s is None else timeout_s,
            max_in_flight,
        )

    def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """What the server has loaded."""
        with raised_as_detection_error():
            return detector_info(self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(timeout_s)))

    def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """True when the server (or one service of it) answers requests, False while it starts or drains.

        Raises:
            DetectionError: No server answers (UNAVAILABLE), or it has no such service (NOT_FOUND).
        """
        check = self._channel.unary_unary(CHECK, request_serializer=encode_request, response_deserializer=is_serving)
        with raised_as_detection_error():
            return bool(check(service, **self._arguments(timeout_s)))

    def _arguments(self, timeout_s: float | None) -> dict[str, object]:
        return self._connection.call_arguments(self.timeout_s if timeout_s is None else timeout_s)


class AsyncClient:
    """`Client` for asyncio: the same arguments, the same answers, awaited. Open it inside the running loop."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: bool | bytes | str | os.PathLike[str] = False,
        token: str | None = None,
        wait_for_ready: bool = False,
    ) -> None:
        self.timeout_s = timeout_s
        self._connection = Connection(address, tls, token, wait_for_ready)
        self._channel = self._connection.open_async()
        self._stub = DetectionServiceStub(self._channel)  # type: ignore[no-untyped-call]

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
        with raised_as_detection_error():
            return verdict(await self._stub.Detect(request, **self._arguments(timeout_s)))

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
        with raised_as_detection_error():
            response = await self._stub.DetectBatch(batch, **self._arguments(timeout_s))
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
            self.timeout_s if timeout_s is None else timeout_s,
            max_in_flight,
        )

    async def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """As `Client.describe`."""
        with raised_as_detection_error():
            return detector_info(await self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(timeout_s)))

    async def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """As `Client.health`."""
        check = self._channel.unary_unary(CHECK, request_serializer=encode_request, response_deserializer=is_serving)
        with raised_as_detection_error():
            return bool(await check(service, **self._arguments(timeout_s)))

    def _arguments(self, timeout_s: float | None) -> dict[str, object]:
        return self._connection.call_arguments(self.timeout_s if timeout_s is None else timeout_s)

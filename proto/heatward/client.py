"""The client for threads: images go in, frozen dataclasses come out.

Every call has a deadline; UNAVAILABLE and RESOURCE_EXHAUSTED are retried within it (`heatward.connection`), nothing
else is. All other trouble is a `DetectionError`, or, for one image of a batch or a stream, a `Failure` in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import grpc

from heatward.base import BaseClient
from heatward.errors import arrived, raised_as_detection_error
from heatward.health import CHECK, encode_request, is_serving
from heatward.images import ImageInput
from heatward.messages import HeatmapChoice, detect_request, detect_template, detector_info, result, verdict
from heatward.streams import MAX_IN_FLIGHT, stream
from heatward.v1 import detection_pb2 as pb
from heatward.values import DetectorInfo, Effort, Failure, Verdict

__all__ = ["Client"]


class Client(BaseClient):
    """Asks heatward servers. Safe to share between threads; keep one for many calls.

    A client is one channel: it connects at its first call, keeps its connections, and opens lost ones again. A forked
    process opens a client of its own: gRPC's threads do not survive a fork.

    Args:
        address: "host:port", several addresses "ip:port,ip:port", or any gRPC target. The addresses, those of one name
            too, are used in turn; one that is gone, hangs or says NOT_SERVING is left out.
        timeout_s: Deadline of each call, retries and hedge included, unless the call names its own.
        tls: True for the system's root certificates, or a PEM file (path or bytes) of root certificates.
        certificate: The client's own certificate chain, as PEM file (path or bytes), where servers ask for one (mTLS).
        key: The private key of `certificate`, likewise.
        server_name: The name in the servers' certificates, where it is not the host of `address`.
        token: Sent as `authorization: Bearer …`; combine it with TLS.
        wait_for_ready: Calls wait, within their deadline, for a server that is still starting.
        hedge_after_s: `detect` sends its request a second time when it has no answer after so many seconds, and takes
            the first answer; at most one call in ten. None: never.
        breaker: Fails calls at once after many failures in a row. None: every call is tried; gRPC already fails at once
            where no connection can be made, and a breaker is of use to callers who have something else to do.

    Raises:
        OSError: A PEM file cannot be read.
        ValueError: An argument makes no sense; says how to write it.
    """

    def _open(self, *, health_checks: bool = True) -> grpc.Channel:
        return self._connection.open(health_checks=health_checks)

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
        with self._guarded():
            if self._hedge is None:
                return verdict(arrived(self._stub.Detect(request, **self._arguments(timeout_s))))
            return verdict(
                arrived(
                    self._hedge.call(
                        lambda left_s: self._stub.Detect.future(request, **self._arguments(left_s)),
                        self._budget_s(timeout_s),
                    )
                )
            )

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
        with self._guarded():
            response = arrived(self._stub.DetectBatch(batch, **self._arguments(timeout_s)))
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
        that any one image may wait for its answer. Otherwise as `detect`, without hedge and breaker.
        """
        return stream(
            lambda requests: self._stub.DetectStream(requests, **self._connection.call_arguments(None)),
            images,
            detect_template(false_positive_rate, heatmap, top_k, effort),
            self._budget_s(timeout_s),
            max_in_flight,
        )

    def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """What the server has loaded."""
        with self._guarded():
            return detector_info(arrived(self._stub.GetDetector(pb.GetDetectorRequest(), **self._arguments(timeout_s))))

    def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """True when the server (or one service of it) answers requests, False while it starts or drains.

        Raises:
            DetectionError: No server answers (UNAVAILABLE), or it has no such service (NOT_FOUND).
        """
        with self._open(health_checks=False) as channel, raised_as_detection_error():
            check = channel.unary_unary(CHECK, request_serializer=encode_request, response_deserializer=is_serving)
            return bool(check(service, **self._arguments(timeout_s)))

"""The client for threads: images go in, frozen dataclasses come out.

Every call has a deadline; UNAVAILABLE and RESOURCE_EXHAUSTED are retried within it (`connection.py`), nothing else is.
All other trouble is a `DetectionError`, or, for one image of a batch or a stream, a `Failure` in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from heatward.client import checks
from heatward.client.base import SERVING, BaseClient
from heatward.client.batches import AT_ONCE, Part, Plan
from heatward.client.feedback import Labelled, feedback_request, labelled
from heatward.client.forks import starting
from heatward.client.limits import ALONE_BYTES
from heatward.client.messages import HeatmapChoice, detect_request, detect_template, detector_info, verdict
from heatward.client.streams import MAX_IN_FLIGHT, Window, stream
from heatward.client.values import DetectorInfo, Failure, Verdict
from heatward.errors import arrived
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

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
        token: Sent as `authorization: Bearer …`, without white space at its ends; combine it with TLS.
        wait_for_ready: Calls wait, within their deadline, for a server that is still starting.
        hedge_after_s: `detect` sends its request a second time when it has no answer after so many seconds, and takes
            the first answer; at most one call in ten. None: never.
        breaker: Fails calls at once after many failures in a row. None: every call is tried; gRPC already fails at once
            where no connection can be made, and a breaker is of use to callers who have something else to do.

    Raises:
        OSError: A PEM file cannot be read.
        RuntimeError: gRPC cannot work in this process, because of when it was forked.
        TypeError, ValueError: An argument makes no sense; says how to write it.
    """

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        self._closed = True
        self._channel.close()

    def detect(
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
        """Asks about one image.

        Args:
            image: A path, the bytes of an image file, an open file, a PIL image, or a uint8 array: (H, W, 3) in the
                order RGB, or (H, W) grey. OpenCV's arrays are BGR: pass `array[..., ::-1]`.
            false_positive_rate: The share of clean images you accept to see flagged; None: the server's default.
            heatmap: "float" for the numbers, "png" for a picture.
            top_k: How many of the classifier's labels to return; None: the server's choice.
            max_error_rate: The share of wrong predictions that you bear among those you accept: `Verdict.reliable` says
                whether this one is. At least `DetectorInfo.smallest_error_rate`.
            look_for_patches: Ask whether a patch made the prediction: `Verdict.patched`. It costs several times as
                much, and the server must have `DetectorInfo.patches`.
            timeout_s: Deadline of this call.

        Raises:
            DetectionError: The server could not answer; `violations` name the fields it refused.
            OSError, TypeError, ValueError: The image cannot be read or is of no known kind, or another argument makes
                no sense; nothing was sent.
        """
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        request = detect_request(image, template)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            asks = request.ByteSize() > ALONE_BYTES
            self._check_size(request, self._server_limits(budget_s) if asks else self._limits.get())
            call = partial(self._begin, self._stub.Detect, request)
            return verdict(
                _answer(call(budget_s)) if self._hedge is None else arrived(self._hedge.call(call, budget_s))
            )

    def detect_batch(
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
        """Asks about several images: an answer each, in their order.

        Any number of them: they travel in as many calls as the server's limits ask for. What cannot be read, is over a
        limit, or has no answer at the deadline is a `Failure` in its place. Arguments otherwise as `detect`.

        Raises:
            DetectionError: No image at all could be answered.
            TypeError, ValueError: An argument makes no sense; nothing was sent.
        """
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        checks.several_images(images)
        budget_s = self._budget_s(timeout_s)
        plan = Plan(images, template, budget_s)
        flying: deque[tuple[Part, Any]] = deque()

        def settle() -> None:
            part, call = flying.popleft()
            if call.code() is grpc.StatusCode.OK:
                plan.settle(part, call.result())
            else:
                plan.fail(part, self._error(call))

        with self._guarded():
            try:
                for part in plan.parts():
                    if part is None:
                        plan.limits = self._server_limits(budget_s)
                        continue
                    if len(flying) == AT_ONCE:
                        settle()
                    if (left_s := plan.begin(part)) > 0:
                        flying.append((part, self._begin(self._stub.DetectBatch, part.request, left_s)))
                while flying:
                    settle()
            finally:
                for _, call in flying:
                    call.cancel()
            return plan.answers()

    def detect_stream(
        self,
        images: Iterable[ImageInput],
        *,
        false_positive_rate: float | None = None,
        heatmap: HeatmapChoice | None = None,
        top_k: int | None = None,
        max_error_rate: float | None = None,
        look_for_patches: bool = False,
        timeout_s: float | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> Iterator[tuple[int, Verdict | Failure]]:
        """Asks about any number of images; yields (position in `images`, answer) as answers come, in any order.

        `images` is read on another thread, at most `max_in_flight` ahead of the answers. `timeout_s` is the longest
        that any one image may wait for its answer. What cannot be read, or is over a limit, is a `Failure` in its
        place. Otherwise as `detect`, without hedge and breaker.

        Raises:
            DetectionError: The stream has ended; says how many images that were sent are unanswered.
            Exception: What `images` raises itself, once all before it is answered.
        """
        template = detect_template(false_positive_rate, heatmap, top_k, max_error_rate, look_for_patches)
        checks.several_images(images)
        budget_s, count = self._budget_s(timeout_s), checks.count("max_in_flight", max_in_flight)
        self._check_usable()
        ask = partial(self._server_limits, budget_s)
        return stream(self._begin_stream, images, Window(template, budget_s), count, ask, self._error)

    def describe(self, *, timeout_s: float | None = None) -> DetectorInfo:
        """What the server has loaded."""
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            info = _answer(self._begin(self._stub.GetDetector, pb.GetDetectorRequest(), budget_s))
        self._limits.learn(info)
        return detector_info(info)

    def label(self, name: str, truth: str, true_label: str = "", *, timeout_s: float | None = None) -> Labelled:
        """Tells a server that records what an image really was; every label is kept, and the latest counts.

        Args:
            name: The request id of the image, or the id of its record.
            truth: "false-alarm", "attack" or "true-label".
            true_label: The class that the image shows, for "true-label".
            timeout_s: As for `detect`.

        Raises:
            DetectionError: NOT_FOUND: no such image was recorded. UNIMPLEMENTED: the server does not record.
            TypeError, ValueError: An argument makes no sense; nothing was sent.
        """
        request = feedback_request(name, truth, true_label)
        budget_s = self._budget_s(timeout_s)
        with self._guarded():
            return labelled(_answer(self._begin(self._feedback.Feedback, request, budget_s)))

    def health(self, service: str = "", *, timeout_s: float | None = None) -> bool:
        """True when the server (or one service of it) answers requests, False while it starts or drains.

        Raises:
            DetectionError: No server answers (UNAVAILABLE), or it has no such service (NOT_FOUND).
            TypeError, ValueError: `service` is no name.
        """
        name = StringValue(value=checks.service(service))
        budget_s = self._budget_s(timeout_s)
        with self._errors(), self._connection.open(health_checks=False) as channel:
            return bool(_answer(self._begin(self._health_check(channel), name, budget_s)) == SERVING)

    def _begin(self, method: Any, request: Any, budget_s: float) -> Any:
        """A call as a future: no thread waits inside gRPC, where a fork would harm it."""
        with starting:
            return method.future(request, **self._connection.call_arguments(budget_s))

    def _begin_stream(self, requests: Iterator[pb.DetectRequest]) -> Any:
        with self._errors(), starting:
            return self._stub.DetectStream(requests, **self._connection.call_arguments(None))

    def _server_limits(self, budget_s: float) -> pb.Limits:
        """What the server takes; nothing is known where it does not say in half of the time."""
        known = self._limits.get()
        if known is None:
            info = None
            with suppress(grpc.RpcError):
                info = _answer(self._begin(self._stub.GetDetector, pb.GetDetectorRequest(), budget_s / 2))
            known = self._limits.learn(info)
        return known


def _answer(call: Any) -> Any:
    """What a call that was begun brings."""
    try:
        if call.code() is not grpc.StatusCode.OK:
            raise call
        return arrived(call.result())
    finally:
        call.cancel()

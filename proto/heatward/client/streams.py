"""One bidirectional stream: images go in, (index, answer) come out as the server sends them.

    images ─▶ requests (at most `max_in_flight` open) ─▶ server ─▶ answers ─▶ matched by request id ─▶ caller

gRPC's own deadline would end a long stream of quick answers, so the deadline here is each image's; the request says it.
What has been answered is yielded before an error of the stream is raised; an exception of `images` itself is raised
once all that was sent before is answered.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard, TypeVar

import grpc
import grpc.aio

from heatward.client.forks import open_streams
from heatward.client.limits import SMALL_BYTES, too_large
from heatward.client.messages import pack, result
from heatward.client.values import Failure, Verdict
from heatward.errors import DetectionError
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

__all__ = ["MAX_IN_FLIGHT", "Window", "async_stream", "stream"]

T = TypeVar("T")
Arrival: TypeAlias = pb.DetectResult | Failure | DetectionError | None
"""An answer; what is answered here, unsent; what ended the stream; None: its regular end."""

MAX_IN_FLIGHT = 64
GRACE_S = 0.1
"""For answers that have arrived while the caller was busy elsewhere, longer than the deadline."""
STATUS_LOST = "Internal error from Core"  # what grpc.aio says of a call that ended while a message was on its way


class Window:
    """Images sent and not yet answered, oldest first; the synchronous client opens and closes them on two threads.

    Args:
        template: A request without its image.
        timeout_s: The longest that an image may wait for its answer.

    Attributes:
        broken: What `images` has raised.
    """

    def __init__(self, template: pb.DetectRequest, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.broken: Exception | None = None
        self._template = template
        self._sent_at: dict[str, float] = {}

    def open(self, index: int, image: ImageInput) -> pb.DetectRequest | Failure:
        """The request for the image at `index`, or why there is none."""
        request_id = str(index)
        self._sent_at[request_id] = time.monotonic()
        return pack(image, self._template, request_id, self.timeout_s)

    def close(self, arrival: Arrival) -> tuple[int, Verdict | Failure] | None:
        """The index of an image and its answer; None: all images have one.

        Raises:
            DetectionError: The stream has ended, or the answer is no open image's.
            Exception: What `images` has raised.
        """
        if isinstance(arrival, DetectionError):
            raise self.ended_by(arrival)
        if arrival is None:
            if self.broken:
                raise self.broken
            if count := len(self._sent_at):
                raise DetectionError("INTERNAL", f"the server ended the stream with {count} images unanswered")
            return None
        if self._sent_at.pop(arrival.request_id, None) is None:
            fault = f"the server answered {arrival.request_id!r}, which is not the id of an open image"
            raise DetectionError("INTERNAL", fault)
        return int(arrival.request_id), arrival if isinstance(arrival, Failure) else result(arrival)

    def patience_s(self) -> float:
        """How long to wait for the next answer before `check_deadline`."""
        return max(GRACE_S, self._left_s())

    def check_deadline(self) -> None:
        """Called when no answer came in time.

        Raises:
            DetectionError: DEADLINE_EXCEEDED, where the oldest open image has waited too long.
        """
        if self._left_s() <= 0:
            fault = f"an image of the stream had no answer within {self.timeout_s:g} s"
            raise self.ended_by(DetectionError("DEADLINE_EXCEEDED", fault))

    def ended_by(self, error: DetectionError) -> DetectionError:
        """The error that ended the stream, which also says how many images it leaves without an answer."""
        count = len(self._sent_at)
        left = f"; {count} image{'s' * (count != 1)} of the stream unanswered" if count else ""
        return DetectionError(error.code, error.message + left, error.violations, error.retry_after_s)

    def _left_s(self) -> float:
        oldest = next(iter(tuple(self._sent_at.values())), None)  # a copy: the other thread may be opening one
        return self.timeout_s if oldest is None else oldest + self.timeout_s - time.monotonic()


def stream(
    call: Callable[[Iterator[pb.DetectRequest]], Any],
    images: Iterable[ImageInput],
    window: Window,
    max_in_flight: int,
    ask: Callable[[], pb.Limits],
    explain: Callable[[grpc.RpcError], DetectionError],
) -> Iterator[tuple[int, Verdict | Failure]]:
    """Runs a stream on three threads: gRPC's reads `images`, ours reads answers, the caller's gets them.

    Args:
        call: Begins the call.
        images: What to send.
        window: A new one.
        max_in_flight: Images that may be sent ahead of the answers.
        ask: The server's limits.
        explain: What gRPC's error means.
    """
    slots, ended = threading.Semaphore(max_in_flight), threading.Event()
    arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

    def requests() -> Iterator[pb.DetectRequest]:
        try:
            for index, image in enumerate(images):
                slots.acquire()
                if ended.is_set():
                    return
                request = window.open(index, image)
                if _may_be_too_large(request):
                    request = too_large(request, ask()) or request
                if isinstance(request, Failure):
                    arrivals.put(request)
                else:
                    yield request
        except Exception as error:
            window.broken = error

    def read() -> None:
        try:
            for answer in answers:
                arrivals.put(answer)
            arrivals.put(None)
        except grpc.RpcError as error:
            arrivals.put(explain(error))

    answers = call(requests())
    open_streams.add(ended)
    reader = threading.Thread(target=read, name="heatward-stream", daemon=True)
    reader.start()
    try:
        while True:
            try:
                arrival = arrivals.get(timeout=window.patience_s())
            except queue.Empty:
                window.check_deadline()
                continue
            if (answered := window.close(arrival)) is None:
                return
            slots.release()
            yield answered
    finally:
        ended.set()
        open_streams.discard(ended)
        slots.release()
        answers.cancel()
        reader.join()


async def async_stream(
    call: Callable[[AsyncIterator[pb.DetectRequest]], Any],
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
    window: Window,
    max_in_flight: int,
    ask: Callable[[], Awaitable[pb.Limits]],
    explain: Callable[[grpc.RpcError], DetectionError],
) -> AsyncIterator[tuple[int, Verdict | Failure]]:
    """As `stream`, on the event loop."""
    slots = asyncio.Semaphore(max_in_flight)
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()

    async def requests() -> AsyncIterator[pb.DetectRequest]:
        index = 0
        try:
            async for image in _each(images):
                await slots.acquire()
                request = window.open(index, image)
                index += 1
                if _may_be_too_large(request):
                    request = too_large(request, await ask()) or request
                if isinstance(request, Failure):
                    arrivals.put_nowait(request)
                else:
                    yield request
        except Exception as error:
            window.broken = error

    async def read() -> None:
        try:
            while (answer := await answers.read()) is not grpc.aio.EOF:
                arrivals.put_nowait(answer)
            arrivals.put_nowait(None)
        except grpc.aio.AioRpcError as error:
            arrivals.put_nowait(explain(await _status(error, call, window.timeout_s)))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not by us: grpc.aio cancels a stream that is over while a request is being written, and its status is lost
            nothing = grpc.aio.Metadata()
            lost = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, STATUS_LOST)
            arrivals.put_nowait(explain(await _status(lost, call, window.timeout_s)))

    answers = call(requests())
    reader = asyncio.create_task(read())
    open_streams.add(reader)
    try:
        while True:
            try:
                arrival = await asyncio.wait_for(arrivals.get(), window.patience_s())
            except TimeoutError:
                window.check_deadline()
                continue
            if (answered := window.close(arrival)) is None:
                return
            slots.release()
            yield answered
    finally:
        answers.cancel()
        reader.cancel()
        open_streams.discard(reader)
        await asyncio.gather(reader, return_exceptions=True)


def _may_be_too_large(request: pb.DetectRequest | Failure) -> TypeGuard[pb.DetectRequest]:
    return isinstance(request, pb.DetectRequest) and request.ByteSize() > SMALL_BYTES


async def _status(
    error: grpc.aio.AioRpcError, call: Callable[[AsyncIterator[pb.DetectRequest]], Any], timeout_s: float
) -> grpc.aio.AioRpcError:
    """The error, or where grpc.aio has lost the server's: what the server says of a stream without images."""
    if error.details() == STATUS_LOST:
        again = call(_each(()))
        try:
            await asyncio.wait_for(again.read(), timeout_s)
        except grpc.aio.AioRpcError as told:
            return told
        except TimeoutError:
            pass
        finally:
            again.cancel()
    return error


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item

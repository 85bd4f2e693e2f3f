"""One bidirectional stream: images go in, (index, answer) come out as the server sends them.

    images ─▶ requests (at most `max_in_flight` open) ─▶ server ─▶ answers ─▶ matched by request id ─▶ caller

gRPC's own deadline would end a long stream of quick answers, so the deadline here is each image's; the request says it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from heatward.client.forks import open_streams
from heatward.client.limits import SMALL_BYTES, too_large
from heatward.client.messages import pack, result
from heatward.client.values import Failure, Verdict
from heatward.client.window import Window
from heatward.errors import DetectionError
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

__all__ = ["MAX_IN_FLIGHT", "async_stream", "stream"]

T = TypeVar("T")

MAX_IN_FLIGHT = 64
STATUS_LOST = "Internal error from Core"  # what grpc.aio says of a call that ended while a message was on its way


def stream(
    call: Callable[[Iterator[pb.DetectRequest]], Any],
    images: Iterable[ImageInput],
    template: pb.DetectRequest,
    timeout_s: float,
    max_in_flight: int,
    ask: Callable[[], pb.Limits],
    explain: Callable[[grpc.RpcError], DetectionError],
) -> Iterator[tuple[int, Verdict | Failure]]:
    """Runs a stream on three threads: gRPC's reads `images`, ours reads answers, the caller's gets them.

    What has been answered is yielded before an error of the stream is raised; an exception of `images` itself is raised
    once all that was sent before is answered.
    """
    window, slots, ended = Window(timeout_s), threading.Semaphore(max_in_flight), threading.Event()
    arrivals: queue.SimpleQueue[pb.DetectResult | Failure | DetectionError | None] = queue.SimpleQueue()
    broken: list[Exception] = []

    def requests() -> Iterator[pb.DetectRequest]:
        try:
            for index, image in enumerate(images):
                slots.acquire()
                if ended.is_set():
                    return
                request = pack(image, template, window.open(index), timeout_s)
                if isinstance(request, pb.DetectRequest) and request.ByteSize() > SMALL_BYTES:
                    request = too_large(request, ask()) or request
                if isinstance(request, Failure):
                    arrivals.put(request)
                else:
                    yield request
        except Exception as error:
            broken.append(error)

    def read(answers: Iterable[pb.DetectResult]) -> None:
        try:
            for answer in answers:
                arrivals.put(answer)
            arrivals.put(None)
        except grpc.RpcError as error:
            arrivals.put(explain(error))

    answers = call(requests())
    open_streams.add(ended)
    reader = threading.Thread(target=read, args=(answers,), name="heatward-stream", daemon=True)
    reader.start()
    try:
        while True:
            try:
                arrival = arrivals.get(timeout=window.patience_s())
            except queue.Empty:
                window.check_deadline()
                continue
            if arrival is None:
                break
            if isinstance(arrival, DetectionError):
                raise window.ended_by(arrival)
            index = window.close(arrival.request_id)
            slots.release()
            yield index, arrival if isinstance(arrival, Failure) else result(arrival)
        if broken:
            raise broken[0]
        window.check_empty()
    finally:
        ended.set()
        open_streams.discard(ended)
        slots.release()
        answers.cancel()
        reader.join()


async def async_stream(
    call: Callable[[AsyncIterator[pb.DetectRequest]], Any],
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
    template: pb.DetectRequest,
    timeout_s: float,
    max_in_flight: int,
    ask: Callable[[], Awaitable[pb.Limits]],
    explain: Callable[[grpc.RpcError], DetectionError],
) -> AsyncIterator[tuple[int, Verdict | Failure]]:
    """As `stream`, on the event loop."""
    window, slots = Window(timeout_s), asyncio.Semaphore(max_in_flight)
    arrivals: asyncio.Queue[pb.DetectResult | Failure | DetectionError | None] = asyncio.Queue()
    broken: list[Exception] = []

    async def requests() -> AsyncIterator[pb.DetectRequest]:
        index = 0
        try:
            async for image in _each(images):
                await slots.acquire()
                request = pack(image, template, window.open(index), timeout_s)
                index += 1
                if isinstance(request, pb.DetectRequest) and request.ByteSize() > SMALL_BYTES:
                    request = too_large(request, await ask()) or request
                if isinstance(request, Failure):
                    arrivals.put_nowait(request)
                else:
                    yield request
        except Exception as error:
            broken.append(error)

    async def read() -> None:
        try:
            while (answer := await answers.read()) is not grpc.aio.EOF:
                arrivals.put_nowait(answer)
            arrivals.put_nowait(None)
        except grpc.aio.AioRpcError as error:
            arrivals.put_nowait(explain(await _status(error, call, timeout_s)))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not by us: grpc.aio cancels a stream that is over while a request is being written, and its status is lost
            lost = grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), STATUS_LOST
            )
            arrivals.put_nowait(explain(await _status(lost, call, timeout_s)))

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
            if arrival is None:
                break
            if isinstance(arrival, DetectionError):
                raise window.ended_by(arrival)
            index = window.close(arrival.request_id)
            slots.release()
            yield index, arrival if isinstance(arrival, Failure) else result(arrival)
        if broken:
            raise broken[0]
        window.check_empty()
    finally:
        answers.cancel()
        reader.cancel()
        open_streams.discard(reader)
        await asyncio.gather(reader, return_exceptions=True)


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

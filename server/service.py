"""`heatward.v1.DetectionService`: the road of one request.

    DetectRequest ─▶ validate ─▶ a place in the queue ─▶ decode (thread pool) ─▶ batcher ⇄ engine ─▶ Verdict

In a batch or a stream each image walks this road by itself, so that a bad one never harms its neighbours.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import grpc
import torch
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc as pb_grpc

from detector.errors import HeatwardError
from server.answers import Loaded, to_verdict
from server.batcher import Batcher
from server.config import ServerConfig
from server.errors import ExpiredError, NotReadyError, RequestError
from server.metrics import Metrics
from server.overlay import overlay_png
from server.requests import parse, prepare
from server.status import code_name, to_grpc, to_status

__all__ = ["DetectionService"]

log = logging.getLogger("heatward.service")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """What the images of one call share. Times are of `time.monotonic`."""

    request_id: str
    deadline_s: float | None
    default_s: float

    def expires_s(self, now_s: float, timeout_ms: int) -> float:
        """When an image that arrives now is given up; `timeout_ms` is its own limit, 0 for none."""
        own_s = now_s + timeout_ms / 1e3 if timeout_ms else None
        if self.deadline_s is None:
            return now_s + self.default_s if own_s is None else own_s
        return self.deadline_s if own_s is None else min(own_s, self.deadline_s)


class DetectionService(pb_grpc.DetectionServiceServicer):
    """Answers requests once `load` has given it a detector, until `drain`.

    Args:
        config: Limits and defaults.
        batcher: The queue to the engine.
        metrics: What is counted.
    """

    def __init__(self, config: ServerConfig, batcher: Batcher, metrics: Metrics) -> None:
        self._config = config
        self._batcher = batcher
        self._metrics = metrics
        self._loaded: Loaded | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False
        self.in_flight = 0
        # A decode thread must not spread one image over the cores that the model computes on.
        self._pool = ThreadPoolExecutor(config.decode_workers, "heatward-decode", lambda: torch.set_num_threads(1))

    def load(self, loaded: Loaded) -> None:
        """Serves this detector from now on."""
        self._loaded = loaded

    def drain(self) -> None:
        """Reads nothing more from open streams, so that they end once what they have sent is answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def Detect(self, request: pb.DetectRequest, context: grpc.aio.ServicerContext) -> pb.Verdict:
        verdict = pb.Verdict()
        async with self._call("Detect", context, request.request_id) as call:
            verdict = await self._verdict(request, "", call)
        return verdict

    async def DetectBatch(
        self, request: pb.DetectBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectBatchResponse:
        results: list[pb.DetectResult] = []
        async with self._call("DetectBatch", context) as call:
            self._ready()
            count = len(request.requests)
            if not 1 <= count <= self._config.images_per_call:
                raise RequestError("requests", f"between 1 and {self._config.images_per_call} images, but came {count}")
            window = asyncio.Semaphore(self._config.in_flight_per_call)

            async def one(index: int, item: pb.DetectRequest) -> pb.DetectResult:
                async with window:
                    return await self._result(item, f"requests[{index}].", call)

            results = await asyncio.gather(*(one(index, item) for index, item in enumerate(request.requests)))
        return pb.DetectBatchResponse(results=results)

    async def DetectStream(self, requests: AsyncIterator[pb.DetectRequest], context: grpc.aio.ServicerContext) -> None:
        async with self._call("DetectStream", context) as call:
            self._ready()
            window = asyncio.Semaphore(self._config.in_flight_per_call)  # a full one stops the reading
            writing = asyncio.Lock()
            open_ids: set[str] = set()

            async def one(request: pb.DetectRequest, fault: RequestError | None) -> None:
                try:
                    result = await self._result(request, "", call, fault)
                    async with writing:
                        await context.write(result)
                finally:
                    if fault is None:
                        open_ids.discard(request.request_id)
                    window.release()

            async def read() -> None:
                async for request in requests:
                    await window.acquire()
                    fault = _id_fault(request.request_id, open_ids)
                    if fault is None:
                        open_ids.add(request.request_id)
                    group.create_task(one(request, fault))

            async with asyncio.TaskGroup() as group:
                reader = group.create_task(read())
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
            if self._draining:
                raise NotReadyError("the server is draining: send what has no answer yet to another server")

    async def GetDetector(self, request: pb.GetDetectorRequest, context: grpc.aio.ServicerContext) -> pb.DetectorInfo:
        info = pb.DetectorInfo()
        async with self._call("GetDetector", context):
            info = self._ready().info
        return info

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise NotReadyError("the server is starting: retry in a few seconds")
        return self._loaded

    async def _result(
        self, request: pb.DetectRequest, path: str, call: Call, fault: RequestError | None = None
    ) -> pb.DetectResult:
        """One item of a batch or a stream: its verdict, or why it has none."""
        result = pb.DetectResult(request_id=request.request_id)
        try:
            if fault is not None:
                raise fault
            result.verdict.CopyFrom(await self._verdict(request, path, call))
        except Exception as error:
            result.status.CopyFrom(to_status(error, request.request_id or call.request_id))
            log.info(
                "an image was not answered",
                extra={"request_id": request.request_id or call.request_id, "code": code_name(result.status)},
            )
        return result

    async def _verdict(self, request: pb.DetectRequest, path: str, call: Call) -> pb.Verdict:
        arrived_s = time.monotonic()
        loaded = self._ready()
        try:
            ask = parse(
                request,
                path,
                default_rate=loaded.info.default_false_positive_rate,
                smallest_rate=loaded.smallest_rate,
                default_effort=self._config.effort,
            )
            work = self._batcher.admit(call.expires_s(arrived_s, request.timeout_ms), thorough=ask.effort == "thorough")
            try:
                async with asyncio.timeout(work.expires_s - arrived_s):
                    image, decode_s = await self._in_pool(
                        prepare, ask, loaded.detector.classifier, self._config.image_limits
                    )
                    self._batcher.enqueue(work, image)
                    answer = await work.answer
                    png = b""
                    if ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
                        png = await self._in_pool(overlay_png, image, answer.verdict.heatmap)
            except TimeoutError:
                raise ExpiredError("the deadline passed before the answer was there") from None
            finally:
                self._batcher.leave(work)
        except Exception as error:
            self._metrics.failed_image(error.code if isinstance(error, HeatwardError) else "INTERNAL")
            raise
        verdict = to_verdict(ask, answer, loaded, decode_s, time.monotonic() - arrived_s, png)
        self._metrics.image(answer, attacked=verdict.attacked, decode_s=decode_s, asked=ask.effort)
        return verdict

    def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args, **kwargs))

    @asynccontextmanager
    async def _call(self, method: str, context: grpc.aio.ServicerContext, request_id: str = "") -> AsyncIterator[Call]:
        """Counts and logs a call, and turns what is raised inside into its status."""
        started_s = time.monotonic()
        remaining_s = context.time_remaining()
        call = Call(
            request_id or uuid.uuid4().hex[:16],
            None if remaining_s is None else started_s + remaining_s,
            self._config.default_deadline_s,
        )
        self.in_flight += 1
        code = "OK"
        try:
            yield call
        except asyncio.CancelledError:
            code = "CANCELLED" if call.deadline_s is None or time.monotonic() < call.deadline_s else "DEADLINE_EXCEEDED"
            raise
        except Exception as error:
            status = to_status(error, call.request_id)
            code = code_name(status)
            answer = to_grpc(status)
            await context.abort(answer.code, answer.details, answer.trailing_metadata)
        finally:
            self.in_flight -= 1
            seconds = time.monotonic() - started_s
            self._metrics.call(method, code, seconds)
            log.info(
                "call",
                extra={"method": method, "request_id": call.request_id, "code": code, "ms": round(seconds * 1e3, 3)},
            )


def _id_fault(request_id: str, open_ids: set[str]) -> RequestError | None:
    if not request_id:
        return RequestError("request_id", "required in a stream: answers come in any order")
    if request_id in open_ids:
        return RequestError("request_id", f"{request_id!r} is in use by another open request of this stream")
    return None

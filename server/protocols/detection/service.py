"""`heatward.v1.DetectionService`: one image, many, or a stream of them.

In a batch or a stream each image has its own answer, so that a bad one never harms its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc as pb_grpc

from detector.text import printable
from server.config import ServerConfig
from server.errors import RequestError
from server.inference.pipeline import Judge, Outcome, Trip
from server.models.registry import Versions
from server.transport.calls import Call, Calls
from server.transport.status import code_name, to_status
from server.transport.streams import Streams

__all__ = ["DetectionService"]

log = logging.getLogger("heatward.service")


class DetectionService(pb_grpc.DetectionServiceServicer):
    """Answers requests.

    Args:
        config: Limits.
        versions: The detectors.
        judge: Gives the verdicts.
        calls: Counts the calls.
        streams: Brings streams to their end where the server drains.
    """

    def __init__(self, config: ServerConfig, versions: Versions, judge: Judge, calls: Calls, streams: Streams) -> None:
        self._config = config
        self._versions = versions
        self._judge = judge
        self._calls = calls
        self._streams = streams

    async def Detect(self, request: pb.DetectRequest, context: grpc.aio.ServicerContext) -> pb.Verdict:
        verdict = pb.Verdict()
        async with self._calls.call("Detect", context, request.request_id) as call:
            call.unanswered.images = 1
            verdict = await self._judge.verdict(request, "", call)
        return verdict

    async def DetectBatch(
        self, request: pb.DetectBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetectBatchResponse:
        response = pb.DetectBatchResponse()
        async with self._calls.call("DetectBatch", context) as call:
            _ = self._versions.current
            count = len(request.requests)
            if not 1 <= count <= self._config.images_per_call:
                raise RequestError("requests", f"between 1 and {self._config.images_per_call} images, but came {count}")
            call.unanswered.images = count
            items = request.requests
            outcomes = await self._judge.verdicts(count, lambda place: (f"requests[{place}].", items[place]), call)
            for item, outcome in zip(items, outcomes, strict=True):
                response.results.add(**self._parts(item.request_id, outcome, call))
        return response

    async def DetectStream(self, requests: AsyncIterator[pb.DetectRequest], context: grpc.aio.ServicerContext) -> None:
        async with self._calls.call("DetectStream", context) as call:
            _ = self._versions.current
            unanswered = call.unanswered
            most = self._config.in_flight_per_call
            window = asyncio.Semaphore(most)  # a full one stops the reading
            results: asyncio.Queue[tuple[pb.DetectResult, str] | None] = asyncio.Queue()  # each with the id it frees
            open_ids: set[str] = set()
            trips: dict[str, Trip] = {}

            async def read() -> None:
                async for request in messages:
                    unanswered.images += 1
                    await window.acquire()
                    request_id = request.request_id
                    if fault := _id_fault(request_id, open_ids):
                        results.put_nowait((self._result(request_id, fault, call), ""))
                        continue
                    open_ids.add(request_id)
                    for trip in self._judge.begin([("", request)], call, partial(ended, request_id)):
                        trips[request_id] = trip

            def ended(request_id: str, place: int, outcome: Outcome) -> None:
                trips.pop(request_id, None)
                results.put_nowait((self._result(request_id, outcome, call), request_id))

            async def write() -> None:
                while answer := await results.get():
                    result, freed = answer
                    await context.write(result)
                    unanswered.images -= 1
                    open_ids.discard(freed)
                    window.release()

            with self._streams.reading(
                requests, lambda: bool(unanswered.images), pb.DetectRequest.ByteSize
            ) as messages:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(write())
                        await asyncio.wait([group.create_task(read())])
                        for _ in range(most):  # until all is written
                            await window.acquire()
                        results.put_nowait(None)
                finally:
                    self._judge.give_up(list(trips.values()))

    async def GetDetector(self, request: pb.GetDetectorRequest, context: grpc.aio.ServicerContext) -> pb.DetectorInfo:
        info = pb.DetectorInfo()
        async with self._calls.call("GetDetector", context):
            info = self._versions.named(request.version).info
        return info

    def _result(self, request_id: str, outcome: Outcome, call: Call) -> pb.DetectResult:
        return pb.DetectResult(**self._parts(request_id, outcome, call))

    def _parts(self, request_id: str, outcome: Outcome, call: Call) -> dict[str, Any]:
        """Of the `DetectResult` of one item of a batch or a stream: its verdict, or why it has none."""
        if isinstance(outcome, pb.Verdict):
            return {"request_id": request_id, "verdict": outcome}
        shown_id = printable(request_id or call.request_id)
        status = to_status(outcome, shown_id)
        log.info("an image was not answered", extra={"request_id": shown_id, "code": code_name(status)})
        return {"request_id": request_id, "status": status}


def _id_fault(request_id: str, open_ids: set[str]) -> RequestError | None:
    if not request_id:
        return RequestError("request_id", "required in a stream: answers come in any order")
    if request_id in open_ids:
        in_use = f"'{printable(request_id)}' is in use by another open request of this stream"
        return RequestError("request_id", in_use)
    return None

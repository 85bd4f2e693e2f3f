"""`heatward.v1.DetectionService`: one image, many, or a stream of them.

In a batch or a stream each image has its own answer, so that a bad one never harms its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc as pb_grpc

from server.bundles.versions import Versions
from server.calls import Call, Calls
from server.config import ServerConfig
from server.errors import NotReadyError, RequestError
from server.judge import Judge
from server.status import code_name, to_status

__all__ = ["DetectionService"]

log = logging.getLogger("heatward.service")


class DetectionService(pb_grpc.DetectionServiceServicer):
    """Answers requests until `drain`.

    Args:
        config: Limits.
        versions: The detectors.
        judge: Gives the verdicts.
        calls: Counts the calls.
    """

    def __init__(self, config: ServerConfig, versions: Versions, judge: Judge, calls: Calls) -> None:
        self._config = config
        self._versions = versions
        self._judge = judge
        self._calls = calls
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Reads nothing more from open streams, so that they end once what they have sent is answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def Detect(self, request: pb.DetectRequest, context: grpc.aio.ServicerContext) -> pb.Verdict:
        verdict = pb.Verdict()
        async with self._calls.call("Detect", context, request.request_id) as call:
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
            items = [(f"requests[{index}].", item) for index, item in enumerate(request.requests)]
            results = await self._judge.verdicts(items, call)
            response.results.extend(self._result(*each, call) for each in zip(request.requests, results, strict=True))
        return response

    async def DetectStream(self, requests: AsyncIterator[pb.DetectRequest], context: grpc.aio.ServicerContext) -> None:
        async with self._calls.call("DetectStream", context) as call:
            _ = self._versions.current
            window = asyncio.Semaphore(self._config.in_flight_per_call)  # a full one stops the reading
            writing = asyncio.Lock()
            open_ids: set[str] = set()

            async def one(request: pb.DetectRequest, fault: RequestError | None) -> None:
                request_id = request.request_id
                try:
                    outcome = fault or (await self._judge.verdicts([("", request)], call))[0]
                    result = self._result(request, outcome, call)
                    del request  # whoever does not read the answer must not have us keep the image
                    async with writing:
                        await context.write(result)
                finally:
                    if fault is None:
                        open_ids.discard(request_id)
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
        async with self._calls.call("GetDetector", context):
            info = self._versions.named(request.version).info
        return info

    def _result(self, request: pb.DetectRequest, outcome: pb.Verdict | Exception, call: Call) -> pb.DetectResult:
        """One item of a batch or a stream: its verdict, or why it has none."""
        if isinstance(outcome, pb.Verdict):
            return pb.DetectResult(request_id=request.request_id, verdict=outcome)
        request_id = request.request_id or call.request_id
        status = to_status(outcome, request_id)
        log.info("an image was not answered", extra={"request_id": request_id, "code": code_name(status)})
        return pb.DetectResult(request_id=request.request_id, status=status)


def _id_fault(request_id: str, open_ids: set[str]) -> RequestError | None:
    if not request_id:
        return RequestError("request_id", "required in a stream: answers come in any order")
    if request_id in open_ids:
        return RequestError("request_id", f"{request_id!r} is in use by another open request of this stream")
    return None

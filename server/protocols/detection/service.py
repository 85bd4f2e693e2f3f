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
from server.errors import RequestError
from server.inference.answer import disclosed
from server.inference.context import RequestContext
from server.inference.request import InferenceRequest, InferenceResult, Outcome
from server.protocols.detection.answers import to_verdict
from server.protocols.detection.info import to_info
from server.protocols.detection.requests import checked_options, to_inference
from server.protocols.service import Service, answered
from server.transport.status import code_name, to_status

__all__ = ["DetectionService"]

log = logging.getLogger("heatward.service")


class DetectionService(Service, pb_grpc.DetectionServiceServicer):
    """Answers requests."""

    @answered(lambda request: request.request_id)
    async def Detect(self, request: pb.DetectRequest, rpc: RequestContext) -> pb.Verdict:
        rpc.unanswered.images = 1
        result = await self.pipeline.result(lambda _: self._request(request, rpc), rpc)
        return to_verdict(request, disclosed(result, rpc.disclosure))

    @answered()
    async def DetectBatch(self, request: pb.DetectBatchRequest, rpc: RequestContext) -> pb.DetectBatchResponse:
        _ = self.registry.current
        items = request.requests
        count = len(items)
        if not 1 <= count <= self.config.images_per_call:
            raise RequestError("requests", f"between 1 and {self.config.images_per_call} images, but came {count}")
        rpc.unanswered.images = count
        outcomes = await self.pipeline.results(
            count, lambda place: self._request(items[place], rpc, f"requests[{place}]."), rpc
        )
        response = pb.DetectBatchResponse()
        for item, outcome in zip(items, outcomes, strict=True):
            response.results.add(**self._parts(item, outcome, rpc))
        return response

    async def DetectStream(self, requests: AsyncIterator[pb.DetectRequest], context: grpc.aio.ServicerContext) -> None:
        async with self.rpcs.begin("DetectStream", context) as rpc:
            _ = self.registry.current
            unanswered = rpc.unanswered
            most = self.config.in_flight_per_call
            window = asyncio.Semaphore(most)  # a full one stops the reading
            results: asyncio.Queue[tuple[pb.DetectResult, str] | None] = asyncio.Queue()  # each with the id it frees
            open_ids: set[str] = set()
            open_requests: dict[str, InferenceRequest] = {}

            def make(request: pb.DetectRequest, place: int) -> InferenceRequest:
                return self._request(request, rpc)

            async def read() -> None:
                async for request in messages:
                    unanswered.images += 1
                    await window.acquire()
                    request_id = request.request_id
                    if fault := _id_fault(request_id, open_ids):
                        results.put_nowait((self._result(request, fault, rpc), ""))
                        continue
                    open_ids.add(request_id)
                    for started in self.pipeline.start([0], partial(make, request), rpc, partial(ended, request)):
                        open_requests[request_id] = started

            def ended(request: pb.DetectRequest, place: int, outcome: Outcome) -> None:
                open_requests.pop(request.request_id, None)
                results.put_nowait((self._result(request, outcome, rpc), request.request_id))

            async def write() -> None:
                while answer := await results.get():
                    result, freed = answer
                    await context.write(result)
                    unanswered.images -= 1
                    open_ids.discard(freed)
                    window.release()

            with self.streams.reading(requests, lambda: bool(unanswered.images), pb.DetectRequest.ByteSize) as messages:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(write())
                        await asyncio.wait([group.create_task(read())])
                        for _ in range(most):  # until all is written
                            await window.acquire()
                        results.put_nowait(None)
                finally:
                    self.pipeline.cancel(list(open_requests.values()))

    @answered()
    async def GetDetector(self, request: pb.GetDetectorRequest, rpc: RequestContext) -> pb.DetectorInfo:
        return to_info(self.registry.named(request.version), self.config, rpc.disclosure)

    def _request(self, request: pb.DetectRequest, rpc: RequestContext, path: str = "") -> InferenceRequest:
        model = self.registry.choose(
            request.detector_version, lambda canary: checked_options(request.options, "options", canary, rpc.disclosure)
        )
        return to_inference(request, path, model, rpc.disclosure)

    def _result(self, request: pb.DetectRequest, outcome: Outcome, rpc: RequestContext) -> pb.DetectResult:
        return pb.DetectResult(**self._parts(request, outcome, rpc))

    def _parts(self, request: pb.DetectRequest, outcome: Outcome, rpc: RequestContext) -> dict[str, Any]:
        """Of the `DetectResult` of one item of a batch or a stream: its verdict, or why it has none."""
        request_id = request.request_id
        try:
            if isinstance(outcome, InferenceResult):
                return {"request_id": request_id, "verdict": to_verdict(request, disclosed(outcome, rpc.disclosure))}
            raise outcome
        except Exception as error:
            shown_id = printable(request_id or rpc.request_id)
            status = to_status(error, shown_id)
            log.info("an image was not answered", extra={"request_id": shown_id, "code": code_name(status)})
            return {"request_id": request_id, "status": status}


def _id_fault(request_id: str, open_ids: set[str]) -> RequestError | None:
    if not request_id:
        return RequestError("request_id", "required in a stream: answers come in any order")
    if request_id in open_ids:
        in_use = f"'{printable(request_id)}' is in use by another open request of this stream"
        return RequestError("request_id", in_use)
    return None

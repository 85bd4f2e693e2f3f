"""Guard mode: heatward stands in front of a KServe v2 server, and the calls of one of its models are judged on the way.

    request ─┬─▶ upstream ───────────────▶ answer ─┬─▶ annotate, reject or replace ─▶ answer
             └─▶ images ─▶ pipeline ─▶ findings ───┘

Both ways at once, so a verdict costs the time by which it is later than the answer. A caller who is told nothing gets
upstream's answer as soon as it is there, whatever the verdict will be. Every other call passes as it came,
byte for byte, but for those of our own model, which stays at hand under its name.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from heatward.inference import grpc_service_pb2 as kserve

from server.access.disclosure import Disclosure
from server.errors import RequestError, UnguardedError
from server.inference.context import Action, RequestContext
from server.inference.image import ImageSource
from server.inference.request import InferenceRequest, InferenceResult
from server.protocols.guard.findings import Finding, annotation, corrected, rejection, unjudged
from server.protocols.guard.images import images_of
from server.protocols.guard.upstream import Upstream
from server.protocols.kserve.model import NAME
from server.protocols.kserve.service import InferenceService
from server.protocols.service import Service
from server.transport.parts import most_parts, parsed
from server.transport.status import to_status

__all__ = ["Guard"]

log = logging.getLogger("heatward.guard")

STREAM = "ModelStreamInfer"
SERVICE = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
REQUESTS: dict[str, type[Message]] = {
    method.name: GetMessageClass(method.input_type)
    for method in SERVICE.methods  # of a descriptor pool of their own
}
UPSTREAMS = {
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
}
"""Triton's other methods. One that is not known here might carry images past the guard: UNIMPLEMENTED."""
UNTOLD = "observe"
"""In place of the policy, where the caller is told nothing."""
ACTIONS = {"annotate": Action.OBSERVED, "reject": Action.DENIED, "replace": Action.MODIFIED}
LONGEST_MARGIN_S = 0.05
LONGEST_REASON = 400


@dataclass(eq=False)
class Guard(Service, grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """The methods of `GRPCInferenceService`, those that only upstream serves among them."""

    on_outcome: Callable[[str, str], None]
    """Told the policy and the outcome of each call."""
    own: InferenceService
    """Serves our own model."""
    upstream: Upstream
    """The server behind."""

    def __post_init__(self) -> None:
        failure = self.config.guard_failure or ("open" if self.config.guard_policy == "annotate" else "closed")
        self._closed = failure == "closed"
        self._unseen: set[asyncio.Future[list[Finding]]] = set()
        if self.config.disclosure == Disclosure.NONE.value and self.config.guard_policy != "annotate":
            log.warning(
                "guard_policy = %s acts on no caller who is told nothing: disclosure = none lets attacked images pass",
                self.config.guard_policy,
            )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        service, _, method = handler_call_details.method.removeprefix("/").rpartition("/")
        if service != SERVICE.full_name:
            return None
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method not in REQUESTS and method not in UPSTREAMS:
            return None
        return grpc.unary_unary_rpc_method_handler(functools.partial(self._unary, method))

    async def _unary(self, method: str, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request: Any = None
        if method in REQUESTS:
            try:
                request = parsed(REQUESTS[method].FromString, data, most_parts(self.config.images_per_call))
            except RequestError as error:
                await self.rpcs.fail(method, context, error)
        if method == "ServerReady":
            return await self._server_ready(request, data, context)
        model = getattr(request, "model_name", None) or getattr(request, "name", None)
        if model == self.config.upstream_model and method == "ModelInfer":
            return await self._guarded(request, data, context)
        if method == "ServerLive" or (model == NAME and model != self.config.upstream_model):
            answer: bytes = (await getattr(self.own, method)(request, context)).SerializeToString()
            return answer
        async with self.rpcs.begin(method, context) as rpc:
            if method == "ModelStatistics" and rpc.disclosure is not Disclosure.FULL:
                return kserve.ModelStatisticsResponse().SerializeToString()  # they count what a detector asks, too
            answer = await self.upstream.unary(_path(method), data, context)
        return answer

    async def _server_ready(
        self, request: kserve.ServerReadyRequest, data: bytes, context: grpc.aio.ServicerContext
    ) -> bytes:
        """This server is ready where upstream is ready, too."""
        own = await self.own.ServerReady(request, context)
        if own.ready:
            try:
                return await self.upstream.unary(_path("ServerReady"), data, context)
            except grpc.aio.AioRpcError as error:
                log.info("upstream is not ready", extra={"code": error.code().name, "reason": error.details()})
        return kserve.ServerReadyResponse(ready=False).SerializeToString()

    async def _stream(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async with self.rpcs.begin(STREAM, context):
            if self.config.guard_streams == "refuse":
                raise UnguardedError(
                    f"{STREAM} is not judged and would reach {self.config.upstream_model} past the guard: use "
                    "ModelInfer, or have the operator set guard_streams to pass"
                )
            with self.streams.reading(requests, lambda: False, len) as messages:
                await self.upstream.stream(_path(STREAM), messages, context)

    async def _guarded(
        self, request: kserve.ModelInferRequest, data: bytes, context: grpc.aio.ServicerContext
    ) -> bytes:
        async with self.rpcs.begin("ModelInfer", context, request.id) as rpc:
            judging = asyncio.ensure_future(self._findings(request, self._judged_as(rpc)))
            try:
                answer = await self.upstream.unary(_path("ModelInfer"), data, context)
                if rpc.disclosure is Disclosure.NONE:
                    self._unseen.add(judging)
                    judging.add_done_callback(self._seen)
                else:
                    answer = self._act(answer, await self._in_time(judging), rpc)
            except grpc.aio.AioRpcError:
                self.on_outcome(self.config.guard_policy, "upstream_error")
                raise
            finally:
                if judging not in self._unseen:
                    judging.cancel()
        return answer

    async def judged(self, within_s: float) -> None:
        """Waits for the verdicts that nobody is told: their calls are answered, and do not hold up a drain."""
        if self._unseen:
            await asyncio.wait(set(self._unseen), timeout=max(0.0, within_s))
        if self._unseen:
            log.warning("calls of callers who are told nothing were not judged", extra={"calls": len(self._unseen)})

    def _seen(self, judging: asyncio.Future[list[Finding]]) -> None:
        """Takes note of what a caller was not told."""
        self._unseen.discard(judging)
        if not judging.cancelled():
            self._note(UNTOLD, judging.result(), acted_on=False)

    async def _findings(self, request: kserve.ModelInferRequest, rpc: RequestContext) -> list[Finding]:
        """One for each image; a single one that says why where the images cannot be read."""
        try:
            images = await asyncio.to_thread(images_of, request, self.config)
            rpc.unanswered.images = images.count
            outcomes = await self.pipeline.results(images.count, lambda place: self._request(images.at(place)), rpc)
        except Exception as error:
            return [Finding(None, _why(error, rpc))]
        return [
            Finding(each, disclosure=rpc.disclosure)
            if isinstance(each, InferenceResult)
            else Finding(None, _why(each, rpc))
            for each in outcomes
        ]

    def _judged_as(self, rpc: RequestContext) -> RequestContext:
        """The call, with what becomes of it where an image is flagged.

        One that waits for no verdict hurries none: a short deadline would keep its images from being judged.
        """
        if rpc.disclosure is Disclosure.NONE:
            return replace(rpc, deadline_s=None)
        return replace(_earlier(rpc), action=ACTIONS[self.config.guard_policy])

    def _request(self, image: ImageSource) -> InferenceRequest:
        model = self.registry.choose("")
        return InferenceRequest(model, image, model.default_rate)

    async def _in_time(self, judging: asyncio.Future[list[Finding]]) -> list[Finding]:
        limit_ms = self.config.guard_timeout_ms
        try:
            return await asyncio.wait_for(judging, None if limit_ms is None else limit_ms / 1e3)
        except TimeoutError:
            return [Finding(None, f"no verdict within {limit_ms} ms after upstream's answer (guard_timeout_ms)")]

    def _act(self, answer: bytes, findings: Sequence[Finding], rpc: RequestContext) -> bytes:
        """The answer that the policy makes of upstream's.

        Raises:
            AdversarialInputError: An image is attacked, and the policy is to reject.
            UnjudgedError: There is no verdict, or it could not be acted on, and the guard fails closed.
        """
        policy = self.config.guard_policy
        found = any(each.attacked for each in findings)
        if found and policy == "replace":
            try:
                answer = corrected(answer, findings, self.config.upstream_output)
            except Exception as error:
                why = _why(error, rpc)
                findings = [replace(each, reason=why) if each.attacked else each for each in findings]
        reason = self._note(policy, findings, acted_on=True)
        if found and policy == "reject":
            raise rejection(findings)
        if reason and self._closed:
            raise unjudged(findings)
        return answer + annotation(findings)

    def _note(self, policy: str, findings: Sequence[Finding], *, acted_on: bool) -> str:
        """Counts and logs the outcome of a call, and returns why it has no verdict, if it has none."""
        reason = next((each.reason for each in findings if each.reason), "")
        if any(each.attacked for each in findings) and (policy in ("reject", UNTOLD) or not reason):
            outcome = "attacked"
        elif reason:
            outcome = "failed_closed" if self._closed and acted_on else "failed_open"
        else:
            outcome = "clean"
        self.on_outcome(policy, outcome)
        log.info("guarded", extra={"outcome": outcome, "reason": reason})
        return reason


def _path(method: str) -> str:
    return f"/{SERVICE.full_name}/{method}"


def _why(error: BaseException, rpc: RequestContext) -> str:
    """In few words, though names in it are the caller's: it goes into logs and headers."""
    return str(to_status(error, rpc.request_id).message)[:LONGEST_REASON]


def _earlier(rpc: RequestContext) -> RequestContext:
    """The call with a little less time, so that an answer whose verdict is late still arrives."""
    if rpc.deadline_s is None:
        return rpc
    left_s = max(0.0, rpc.deadline_s - time.monotonic())
    return replace(rpc, deadline_s=rpc.deadline_s - min(LONGEST_MARGIN_S, left_s / 10))

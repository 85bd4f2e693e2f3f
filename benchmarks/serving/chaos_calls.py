"""Well-formed traffic, in calls of every shape and protocol: *images whose label is known* → **a ledger's entries**."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import grpc
from heatward.inference import grpc_service_pb2 as v2
from heatward.inference import grpc_service_pb2_grpc as v2_grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc as pb_grpc

from benchmarks.serving.ledger import Answer, Ledger, NoMessage, item

T = TypeVar("T")

LOAD = frozenset({"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
"""What a good image may be answered with while there is too much to do."""
BAD = LOAD - {"OK"} | {"INVALID_ARGUMENT"}
SERVER_DEADLINE_S = 10.0


class Caller:
    """Sends good images with one token over one connection.

    Args:
        address: Of the server.
        token: Sent with each call.
        images: Encoded files.
        ledger: Watches.
        seed: Of what is random.
    """

    def __init__(self, address: str, token: str, images: list[bytes], ledger: Ledger, seed: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.stub = pb_grpc.DetectionServiceStub(self.channel)
        self.infer_stub = v2_grpc.GRPCInferenceServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.images, self.ledger, self.rng = images, ledger, random.Random(seed)
        self.truth: list[int] = []

    async def learn(self) -> list[int]:
        """Asks for each image while all is calm."""
        for image in self.images:
            request = pb.DetectRequest(image=pb.Image(encoded=image))
            verdict = await self.stub.Detect(request, metadata=self.metadata, timeout=60, wait_for_ready=True)
            self.truth.append(verdict.predicted.index)
        return self.truth

    def requests(self, count: int) -> tuple[list[pb.DetectRequest], dict[str, int]]:
        """Requests, and the label of each by its id."""
        requests, expected = [], {}
        for _ in range(count):
            which = self.rng.randrange(len(self.images))
            request_id = self.ledger.new_id()
            expected[request_id] = self.truth[which]
            request = pb.DetectRequest(request_id=request_id, image=pb.Image(encoded=self.images[which]))
            request.priority = self.rng.choice((0, 0, 0, 1, 3))  # type: ignore[assignment]
            request.options.heatmap = self.rng.choice((0, 0, 1, 2))  # type: ignore[assignment]
            requests.append(request)
        return requests, expected

    async def any(self, kind: str = "", timeout_s: float | None = 5.0, **how: Any) -> None:
        """A call of a random shape."""
        shape, count = self.rng.choice(
            ((self.unary, 1), (self.unary, 1), (self.batch, 8), (self.stream, 24), (self.infer, 4))
        )
        await shape(count, kind or shape.__name__, timeout_s, **how)

    async def unary(self, count: int, kind: str, timeout_s: float | None, **how: Any) -> None:
        requests, expected = self.requests(1)
        call = self.stub.Detect(requests[0], metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            verdict: pb.Verdict = await _message(call)
            yield verdict.request_id, "OK", verdict.predicted.index

        await self._follow(kind, expected, call, answers(), timeout_s, **how)

    async def batch(self, count: int, kind: str, timeout_s: float | None, **how: Any) -> None:
        requests, expected = self.requests(count)
        call = self.stub.DetectBatch(
            pb.DetectBatchRequest(requests=requests), metadata=self.metadata, timeout=timeout_s
        )

        async def answers() -> AsyncIterator[Answer]:
            response: pb.DetectBatchResponse = await _message(call)
            for result in response.results:
                yield item(result)

        await self._follow(kind, expected, call, answers(), timeout_s, **how)

    async def stream(self, count: int, kind: str, timeout_s: float | None, pause_s: float = 0.0, **how: Any) -> None:
        requests, expected = self.requests(count)
        call = self.stub.DetectStream(iter(requests), metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            async for result in call:
                yield item(result)
                await asyncio.sleep(pause_s)

        await self._follow(kind, expected, call, answers(), timeout_s, also=frozenset({"OVER"}), **how)

    async def infer(self, count: int, kind: str, timeout_s: float | None, **how: Any) -> None:
        """The same by the KServe v2 protocol."""
        request = v2.ModelInferRequest(model_name="heatward", id=self.ledger.new_id())
        image = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[count])
        chosen = [self.rng.randrange(len(self.images)) for _ in range(count)]
        image.contents.bytes_contents.extend(self.images[which] for which in chosen)
        expected = {f"{request.id}.{place}": self.truth[which] for place, which in enumerate(chosen)}
        call = self.infer_stub.ModelInfer(request, metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            response: v2.ModelInferResponse = await _message(call)
            (labels,) = (output.contents.int_contents for output in response.outputs if output.name == "label")
            for place, label in enumerate(labels):
                yield f"{response.id}.{place}", "OK", label

        await self._follow(kind, expected, call, answers(), timeout_s, also=frozenset({"EXCHANGED"}), **how)

    async def _follow(
        self,
        kind: str,
        expected: Mapping[str, int | None],
        call: grpc.aio.Call,
        answers: AsyncIterator[Answer],
        timeout_s: float | None,
        *,
        allowed: frozenset[str] = LOAD,
        also: frozenset[str] = frozenset(),
        cancel_after_s: float | None = None,
    ) -> None:
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, call.cancel)
            allowed |= {"CANCELLED"}
        limit_s = SERVER_DEADLINE_S if timeout_s is None else timeout_s
        await self.ledger.follow(kind, expected, answers, allowed | also, limit_s)

    async def spoiled(self, images: list[pb.Image]) -> None:
        """Images that cannot be answered, alone and among good ones."""
        for image in images:
            request = pb.DetectRequest(request_id=self.ledger.new_id(), image=image)
            call = self.stub.Detect(request, metadata=self.metadata, timeout=5)

            async def answers(call: grpc.aio.UnaryUnaryCall = call) -> AsyncIterator[Answer]:
                yield (await call).request_id, "OK", -1

            await self._follow("spoiled", {request.request_id: -1}, call, answers(), 5, allowed=BAD)

    async def bytes(self, data: bytes, method: str) -> None:
        """A message that is none."""
        request_id = self.ledger.new_id()
        call = self.channel.unary_unary(f"/{method}")(data, metadata=self.metadata, timeout=5)

        async def answers() -> AsyncIterator[Answer]:
            await call
            yield request_id, "OK", 0

        await self._follow("bytes", {request_id: 0}, call, answers(), 5, allowed=BAD | {"NOT_FOUND", "UNIMPLEMENTED"})


async def _message(call: grpc.aio.UnaryUnaryCall[Any, T]) -> T:
    message: T | None = await call
    if message is None:
        raise NoMessage(late=call.time_remaining() == 0)
    return message

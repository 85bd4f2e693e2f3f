"""A KServe v2 server to stand in front of: records what comes, as bytes, and answers what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from heatward.inference import grpc_service_pb2 as kserve

SERVICE = "/inference.GRPCInferenceService/"


class FakeUpstream(grpc.GenericRpcHandler):
    """Answers every unary method with `answers[method]`, and echoes streams."""

    def __init__(self) -> None:
        self.address = ""
        self.answers: dict[str, bytes] = {
            "ModelInfer": kserve.ModelInferResponse(model_name="cats").SerializeToString(),
            "ServerReady": kserve.ServerReadyResponse(ready=True).SerializeToString(),
        }
        self.before: Callable[[grpc.aio.ServicerContext], Awaitable[Any]] | None = None
        """Awaited before an answer."""
        self.calls: list[str] = []
        self.requests: list[bytes] = []
        self.metadata: dict[str, str | bytes] = {}
        self.time_left_s: float | None = None
        self.entered, self.cancelled = asyncio.Event(), asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method.removeprefix(SERVICE)
        self.metadata = dict(details.invocation_metadata)
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._echo)

        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self.calls.append(method)
            self.requests.append(request)
            self.time_left_s = context.time_remaining()
            self.entered.set()
            try:
                if self.before is not None:
                    await self.before(context)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return self.answers.get(method, b"")

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _echo(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async for request in requests:
            await context.write(request)


@asynccontextmanager
async def upstream(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[FakeUpstream]:
    """A running one, on a free port."""
    fake = FakeUpstream()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((fake,))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    fake.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)


def tensor(array: np.ndarray, datatype: str = "UINT8", name: str = "pixels") -> kserve.ModelInferRequest:
    """A request to model `cats` with this raw input."""
    request = kserve.ModelInferRequest(model_name="cats", raw_input_contents=[array.tobytes()])
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return request


def labelled(*labels: int) -> kserve.ModelInferRequest:
    """A request with an image of each label; one without its batch dimension."""
    images = np.stack([np.full((8, 8, 3), label, np.uint8) for label in labels])
    return tensor(images if len(labels) > 1 else images[0])

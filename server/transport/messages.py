"""A message off the wire ─▶ inflated under the limit ─▶ parsed ─▶ **a request**; or INVALID_ARGUMENT.

Before 1.84 gRPC inflates a compressed message whole and then looks at its size: 64 MiB become 64 GiB. Here it is told
to leave that to us (`OPTIONS`), and inflating stops at the limit, on a thread. To refuse compression instead is no way
out (docs/experiments.md); once grpcio 1.84 is the oldest that we take, `OPTIONS` and `_inflated` go. What is no message
of its type, gRPC would answer with UNKNOWN and a traceback in the log; here it is the caller's fault.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from server.errors import MessageSizeError, ServiceError
from server.transport.parts import parsed
from server.transport.rpc_contexts import RpcContexts

__all__ = ["OPTIONS", "Messages"]

OPTIONS = (("grpc.per_message_decompression", 0),)

EITHER = 32 + zlib.MAX_WBITS  # zlib finds out whether it is gzip or zlib ("deflate")
# No message of ours begins so: the first would be a field of wire type 7, which does not exist, the others field 15.
COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


class Messages(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Reads the messages of every service.

    Args:
        max_bytes: Largest message, inflated.
        rpcs: Counts and logs what is refused.
        most_parts: Most fields of a message, those inside it included.
    """

    def __init__(self, max_bytes: int, rpcs: RpcContexts, most_parts: int) -> None:
        self._max_bytes = max_bytes
        self._most_parts = most_parts
        self._rpcs = rpcs
        # By path: a handler, and the one that reads for it.
        self._made: dict[str, tuple[grpc.RpcMethodHandler, grpc.RpcMethodHandler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None:
            return handler
        if refusal := self._rpcs.arrived(path.rpartition("/")[2]):
            return refusal
        if path not in self._made or self._made[path][0] is not handler:
            self._made[path] = handler, self._reading(handler, path.rpartition("/")[2])
        return self._made[path][1]

    def _reading(self, handler: grpc.RpcMethodHandler, method: str) -> grpc.RpcMethodHandler:
        parse = handler.request_deserializer or bytes

        async def read(data: bytes) -> Any:
            if data.startswith(COMPRESSED):  # on another thread: the longest takes a good part of a second
                data = await asyncio.to_thread(self._inflated, data)
            return parsed(parse, data, self._most_parts)

        async def read_all(messages: AsyncIterable[bytes]) -> AsyncIterator[Any]:
            async for data in messages:  # what is wrong is raised where it is read, which is inside the call
                yield await read(data)

        async def answer_one(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                request = await read(data)
            except ServiceError as error:
                await self._rpcs.fail(method, context, error)
            return await one(request, context)

        async def answer_stream(messages: AsyncIterable[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await stream(read_all(messages), context)

        async def generate(messages: AsyncIterable[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                async for answer in stream(read_all(messages), context):
                    await context.write(answer)
            except ServiceError as error:
                await self._rpcs.fail(method, context, error)

        one, stream = handler.unary_unary or handler.unary_stream, handler.stream_unary or handler.stream_stream
        kind = ("stream" if stream else "unary") + ("_stream" if handler.response_streaming else "_unary")
        answer = answer_one if one else generate if inspect.isasyncgenfunction(stream) else answer_stream
        return handler._replace(request_deserializer=None, **{kind: answer})

    def _inflated(self, data: bytes) -> bytes:
        stream = zlib.decompressobj(EITHER)
        try:
            message = stream.decompress(data, self._max_bytes + 1)
        except zlib.error:  # it only looked compressed
            return data
        if len(message) > self._max_bytes:
            raise MessageSizeError(f"the message inflates to more than {self._max_bytes} bytes: send fewer images")
        return message

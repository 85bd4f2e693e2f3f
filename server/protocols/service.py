"""What the services of every protocol are made of, and what each of their methods has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import grpc

from server.config import ServerConfig
from server.inference.pipeline import Pipeline
from server.models.registry import ModelRegistry
from server.transport.rpc_contexts import RpcContexts
from server.transport.streams import Streams

__all__ = ["Service", "answered"]


@dataclass(eq=False)
class Service:
    """Answers calls."""

    config: ServerConfig
    """Limits."""
    registry: ModelRegistry
    pipeline: Pipeline
    rpcs: RpcContexts
    """Knows the calls."""
    streams: Streams
    """Brings streams to their end where the server drains."""


Answer = Callable[[Any, Any, grpc.aio.ServicerContext], Awaitable[Any]]


def answered(id_of: Callable[[Any], str] = lambda _: "") -> Callable[[Callable[..., Awaitable[Any]]], Answer]:
    """Makes a gRPC method of one that turns a message and the `RequestContext` of its call into the answer.

    Args:
        id_of: Reads the request's id from its message.
    """

    def decorate(method: Callable[..., Awaitable[Any]]) -> Answer:
        name = method.__name__

        @wraps(method)
        async def answer(service: Service, request: Any, context: grpc.aio.ServicerContext) -> Any:
            response = None
            async with service.rpcs.begin(name, context, id_of(request)) as rpc:
                response = await method(service, request, rpc)
            return response

        return answer

    return decorate

"""Lets a call in by its bearer token (RFC 6750), before anything of its message is read.

metadata ─▶ `authorization: Bearer …` ─▶ **a caller**, whom `RpcContexts` finds in `CALLER`; else UNAUTHENTICATED.
It stands before every service, those to come included; only health stays open, for load balancers have no tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from server.access.tokens import CALLER, Tokens
from server.errors import UnauthenticatedError
from server.transport.health import HEALTH
from server.transport.rpc_contexts import RpcContexts

__all__ = ["Authentication"]


class Authentication(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Refuses calls without a known token.

    Args:
        tokens: Those that are known.
        rpcs: Counts and logs what is refused.
    """

    def __init__(self, tokens: Tokens, rpcs: RpcContexts) -> None:
        self._tokens = tokens
        self._rpcs = rpcs

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if handler is None or service == HEALTH:
            return handler
        values = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        caller = self._tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        if caller is not None:
            CALLER.set(caller)
            return handler
        message = "unknown token" if values else "a token is required"
        error = UnauthenticatedError(f"{message}: send the metadata `authorization: Bearer TOKEN`")
        return self._rpcs.refusal(method, error)

"""A call as it came → **the same call of the KServe v2 server behind the guard** → its answer as it came.

Requests and answers stay *bytes*: what this server does not know of the protocol passes unharmed. So do the caller's
metadata, deadline and cancellation on the way in, and status, details and metadata on the way out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import grpc

from server.access.tls import check_certificates
from server.access.watched import read_file
from server.config import ServerConfig

__all__ = ["Upstream"]

RESERVED = ("grpc-", ":", "user-agent")
"""Beginnings of metadata that is one connection's, not the call's: each side writes its own."""
STATUS_DETAILS = "grpc-status-details-bin"
OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # what is too large, the servers at either end decide
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # it stands beside this server; a proxy is for what is outside
    # an error that repeats a caller's long name is still that error, not RESOURCE_EXHAUSTED
    ("grpc.max_metadata_size", 2**24),
    ("grpc.absolute_max_metadata_size", 2**24),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # the usual two minutes would outlast a restart of upstream by far
)

Metadata = tuple[tuple[str, str | bytes], ...]


class Upstream:
    """A channel to the server that `config.upstream` names.

    Args:
        config: Its address, its certificate authorities, and what to hand on.

    Raises:
        ConfigError: The authorities cannot be read, or are none.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._target = config.upstream or ""
        self._pass_authorization = config.upstream_pass_authorization
        if config.upstream_ca is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        else:
            authorities = read_file("upstream_ca", config.upstream_ca)
            check_certificates("upstream_ca", config.upstream_ca, authorities)
            credentials = grpc.ssl_channel_credentials(authorities)
            self._channel = grpc.aio.secure_channel(self._target, credentials, options=OPTIONS)

    async def close(self) -> None:
        await self._channel.close()

    async def unary(self, path: str, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Passes a call with one message each way on, within its deadline; a cancelled call cancels upstream's.

        Args:
            path: "/package.Service/Method".
            request: As it came.
            context: Of the call that came; gets the metadata of the answer.

        Raises:
            grpc.aio.AioRpcError: What upstream answered instead, or UNAVAILABLE where it cannot be reached.
        """
        call = self._channel.unary_unary(path)(
            request, timeout=context.time_remaining(), metadata=self._metadata(context)
        )
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise self._named(error) from None
        await context.send_initial_metadata(_own(await call.initial_metadata()))
        context.set_trailing_metadata(_own(await call.trailing_metadata()))
        return answer

    async def stream(self, path: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Passes a call with many messages each way on, as `unary` does."""
        call = self._channel.stream_stream(path)(
            requests, timeout=context.time_remaining(), metadata=self._metadata(context)
        )
        try:
            async for message in call:
                await context.write(message)
            context.set_trailing_metadata(_own(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            raise self._named(error) from None
        finally:
            call.cancel()

    def _metadata(self, context: grpc.aio.ServicerContext) -> Metadata:
        pairs = _own(context.invocation_metadata() or ())
        return pairs if self._pass_authorization else tuple(pair for pair in pairs if pair[0] != "authorization")

    def _named(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The same error; where there is no connection, it names upstream, since callers know only this server."""
        details = error.details() or ""
        connected = self._channel.get_state() is grpc.ChannelConnectivity.READY
        if error.code() is grpc.StatusCode.UNAVAILABLE and not connected:
            details = f"the guarded server {self._target} cannot be reached: {details}"
        trailing = grpc.aio.Metadata(*_own(error.trailing_metadata()))
        return grpc.aio.AioRpcError(error.code(), error.initial_metadata(), trailing, details)


def _own(metadata: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """What a call's metadata holds beside the connection's own."""
    return tuple((key, value) for key, value in metadata if key == STATUS_DETAILS or not key.startswith(RESERVED))

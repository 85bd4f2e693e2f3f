"""What stands beside the calls and may look: it is told of each, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from server.transport.rpc_context import RpcContext

__all__ = ["RpcObserver"]


class RpcObserver:
    """It is told of calls; one overrides what it wants to hear."""

    def call_began(self, rpc: RpcContext, path: str, context: grpc.aio.ServicerContext) -> Mapping[str, str]:
        """A call has come.

        Args:
            rpc: Of the call.
            path: Its method: package.Service/Method.
            context: gRPC's own.

        Returns:
            What every line in the log of this call should say.
        """
        return {}

    def call_ended(self, rpc: RpcContext, method: str, code: str, seconds: float) -> None:
        """A call ended with this gRPC status."""

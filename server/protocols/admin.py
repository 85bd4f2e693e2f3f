"""`heatward.v1.AdminService`: reload, and what is loaded. Served only where the setting `admin` is on."""

from __future__ import annotations

import grpc
from heatward.v1 import admin_pb2 as pb
from heatward.v1 import admin_pb2_grpc as pb_grpc

from server.models.registry import ModelRegistry, Role
from server.models.reload import Reloader
from server.transport.rpc_contexts import RpcContexts

__all__ = ["AdminService"]

ROLES = {Role.CURRENT: pb.ROLE_CURRENT, Role.CANARY: pb.ROLE_CANARY, Role.SHADOW: pb.ROLE_SHADOW}


class AdminService(pb_grpc.AdminServiceServicer):
    """Answers an operator.

    Args:
        reloader: Loads again.
        registry: What is loaded.
        rpcs: Knows the calls.
    """

    def __init__(self, reloader: Reloader, registry: ModelRegistry, rpcs: RpcContexts) -> None:
        self._reloader = reloader
        self._registry = registry
        self._rpcs = rpcs

    async def Reload(self, request: pb.ReloadRequest, context: grpc.aio.ServicerContext) -> pb.ReloadResponse:
        response = pb.ReloadResponse()
        async with self._rpcs.begin("Reload", context):
            for each in await self._reloader.reload():
                response.outcomes.add(
                    role=ROLES[each.role], version=each.version, changed=each.changed, error=each.error
                )
        return response

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListVersionsResponse:
        response = pb.ListVersionsResponse()
        async with self._rpcs.begin("ListVersions", context):
            canary = self._registry.canary_weight if self._registry.get(Role.CANARY) else 0.0
            weights = {Role.CURRENT: 1 - canary, Role.CANARY: canary, Role.SHADOW: 0.0}
            for role, model in self._registry:
                response.versions.add(role=ROLES[role], version=model.version, name=model.name, weight=weights[role])
        return response

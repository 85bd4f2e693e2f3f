"""`heatward.v1.AdminService`: reload, and what is loaded. Served only where the setting `admin` is on."""

from __future__ import annotations

import grpc
from heatward.v1 import admin_pb2 as pb
from heatward.v1 import admin_pb2_grpc as pb_grpc

from server.models.registry import Role, Versions
from server.models.reload import Reloader
from server.transport.calls import Calls

__all__ = ["AdminService"]

ROLES = {Role.CURRENT: pb.ROLE_CURRENT, Role.CANARY: pb.ROLE_CANARY, Role.SHADOW: pb.ROLE_SHADOW}


class AdminService(pb_grpc.AdminServiceServicer):
    """Answers an operator.

    Args:
        reloader: Loads again.
        versions: What is loaded.
        calls: Counts the calls.
    """

    def __init__(self, reloader: Reloader, versions: Versions, calls: Calls) -> None:
        self._reloader = reloader
        self._versions = versions
        self._calls = calls

    async def Reload(self, request: pb.ReloadRequest, context: grpc.aio.ServicerContext) -> pb.ReloadResponse:
        response = pb.ReloadResponse()
        async with self._calls.call("Reload", context):
            for each in await self._reloader.reload():
                response.outcomes.add(
                    role=ROLES[each.role], version=each.version, changed=each.changed, error=each.error
                )
        return response

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListVersionsResponse:
        response = pb.ListVersionsResponse()
        async with self._calls.call("ListVersions", context):
            canary = self._versions.canary_weight if self._versions.get(Role.CANARY) else 0.0
            weights = {Role.CURRENT: 1 - canary, Role.CANARY: canary, Role.SHADOW: 0.0}
            for role, loaded in self._versions:
                response.versions.add(
                    role=ROLES[role], version=loaded.info.version, name=loaded.info.name, weight=weights[role]
                )
        return response

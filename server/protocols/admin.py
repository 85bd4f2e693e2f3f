"""`heatward.v1.AdminService`: reload, and what is loaded. Served only where the setting `admin` is on."""

from __future__ import annotations

from dataclasses import dataclass

from heatward.v1 import admin_pb2 as pb
from heatward.v1 import admin_pb2_grpc as pb_grpc

from server.access.disclosure import Disclosure
from server.errors import ForbiddenError
from server.inference.context import RequestContext
from server.models.registry import Role
from server.models.reload import Reloader
from server.protocols.service import Service, answered

__all__ = ["AdminService"]

ROLES = {Role.CURRENT: pb.ROLE_CURRENT, Role.CANARY: pb.ROLE_CANARY, Role.SHADOW: pb.ROLE_SHADOW}


@dataclass(eq=False)
class AdminService(Service, pb_grpc.AdminServiceServicer):
    """Answers an operator."""

    reloader: Reloader
    """Loads again."""

    @answered()
    async def Reload(self, request: pb.ReloadRequest, rpc: RequestContext) -> pb.ReloadResponse:
        _refuse_outsiders(rpc)
        response = pb.ReloadResponse()
        for each in await self.reloader.reload():
            response.outcomes.add(role=ROLES[each.role], version=each.version, changed=each.changed, error=each.error)
        return response

    @answered()
    async def ListVersions(self, request: pb.ListVersionsRequest, rpc: RequestContext) -> pb.ListVersionsResponse:
        _refuse_outsiders(rpc)
        response = pb.ListVersionsResponse()
        canary = self.registry.canary_weight if self.registry.get(Role.CANARY) else 0.0
        weights = {Role.CURRENT: 1 - canary, Role.CANARY: canary, Role.SHADOW: 0.0}
        for role, model in self.registry:
            response.versions.add(role=ROLES[role], version=model.version, name=model.name, weight=weights[role])
        return response


def _refuse_outsiders(rpc: RequestContext) -> None:
    """Whoever is not told all is no operator."""
    if rpc.disclosure is not Disclosure.FULL:
        raise ForbiddenError("your token does not allow you to administer this server: ask the operator (token_file)")

"""gRPC health v1: SERVING while verdicts can be had; NOT_SERVING before, while draining, and without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2
from heatward.inference import grpc_service_pb2
from heatward.v1 import detection_pb2

__all__ = ["HEALTH", "Health"]

HEALTH: str = health.SERVICE_NAME
SERVICES: tuple[str, ...] = (
    "",
    detection_pb2.DESCRIPTOR.services_by_name["DetectionService"].full_name,
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)

LAST_WORD_S = 0.1


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # grpc ships no types
    """Answers for the server as a whole ("") and for each service that gives verdicts.

    Args:
        on_ready: Told whether it says SERVING.
    """

    def __init__(self, on_ready: Callable[[bool], None]) -> None:
        super().__init__()
        self._on_ready = on_ready
        self._ended = asyncio.Event()
        self.ready = False
        """Whether it says SERVING."""

    async def serving(self, yes: bool) -> None:
        """Says SERVING or NOT_SERVING for all of them, and to all who watch."""
        self.ready = yes
        self._on_ready(yes)
        status = health_pb2.HealthCheckResponse
        for service in SERVICES:
            await self.set(service, status.SERVING if yes else status.NOT_SERVING)

    async def enter_graceful_shutdown(self) -> None:
        """Says NOT_SERVING for good and lets the watchers go."""
        self.ready = False
        self._on_ready(False)
        await super().enter_graceful_shutdown()
        self._ended.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Ends with the server: a watcher would otherwise hold up the drain until the grace is over."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=LAST_WORD_S)
        finally:
            ended.cancel()
            watching.cancel()

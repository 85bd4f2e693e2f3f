"""What stands beside the road of a call and its images, and may look: it is told what happens, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from server.inference.context import RequestContext
from server.inference.request import InferenceRequest, InferenceResult

__all__ = ["Headers", "Observer", "Observers"]

Headers = Callable[[], Iterable[tuple[str, str | bytes]] | None]
"""Gives the metadata that a call came with."""


class Observer:
    """It is told of calls, requests and batches; one overrides what it wants to hear."""

    def call_began(self, context: RequestContext, path: str, headers: Headers) -> Mapping[str, str]:
        """A call of this method, package.Service/Method, has come.

        Returns:
            What every line in the log of this call should say.
        """
        return {}

    def call_ended(self, context: RequestContext, method: str, code: str, seconds: float) -> None:
        """A call ended with this gRPC status."""

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        """A request has its result. Called on the event loop."""

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        """An image of this call has no result, so long after it came. Called on the event loop."""

    def dropped(self, reason: str) -> None:
        """A request left the queue: "expired", "late", "cancelled" or "displaced". Called from any thread."""

    def computed(self, seconds: float, images: int) -> None:
        """An engine computed a batch. Called on the engine's thread."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        self._observers.append(observer)

    def call_began(self, context: RequestContext, path: str, headers: Headers) -> Mapping[str, str]:
        labels: dict[str, str] = {}
        for each in self._observers:
            labels |= each.call_began(context, path, headers)
        return labels

    def call_ended(self, context: RequestContext, method: str, code: str, seconds: float) -> None:
        for each in self._observers:
            each.call_ended(context, method, code, seconds)

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        for each in self._observers:
            each.finished(request, result)

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        for each in self._observers:
            each.failed(context, error, seconds)

    def dropped(self, reason: str) -> None:
        for each in self._observers:
            each.dropped(reason)

    def computed(self, seconds: float, images: int) -> None:
        for each in self._observers:
            each.computed(seconds, images)

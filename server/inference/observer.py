"""What stands beside the road of an image and may look: it is told what happens, and changes nothing."""

from __future__ import annotations

from server.inference.request import InferenceRequest, InferenceResult, RequestContext

__all__ = ["Observer", "Observers"]


class Observer:
    """It is told of requests and batches; one overrides what it wants to hear."""

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

"""What can go wrong between a request and its answer; joins the tree of `detector.errors`.

HeatwardError
└── ServiceError                  INTERNAL
    ├── RequestError              INVALID_ARGUMENT     a field of the request, named by its path
    ├── QueueFullError            RESOURCE_EXHAUSTED   no room for another image; says when to come back
    ├── ExpiredError              DEADLINE_EXCEEDED    the deadline passed before the answer was there
    ├── NotReadyError             UNAVAILABLE          starting or draining
    ├── EngineStoppedError        UNAVAILABLE          the engine thread ended
    └── DetectionError            INTERNAL             a defect: the log holds the traceback

The name beside an error is the canonical gRPC status code that it is answered with.
"""

from __future__ import annotations

from detector.errors import HeatwardError

__all__ = [
    "DetectionError",
    "EngineStoppedError",
    "ExpiredError",
    "NotReadyError",
    "QueueFullError",
    "RequestError",
    "ServiceError",
]


class ServiceError(HeatwardError):
    """The service cannot answer."""


class RequestError(ServiceError):
    """A field of the request is missing, out of range or contradicts another."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class QueueFullError(ServiceError):
    """There is no room for another image."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ExpiredError(ServiceError):
    """The deadline passed before the answer was there."""

    code = "DEADLINE_EXCEEDED"


class NotReadyError(ServiceError):
    """The server is starting or draining."""

    code = "UNAVAILABLE"


class EngineStoppedError(ServiceError):
    """The thread that owns the model ended."""

    code = "UNAVAILABLE"


class DetectionError(ServiceError):
    """The detector failed on an image for a reason that is not the image's."""

"""What can go wrong between a request and its answer; joins the tree of `detector.errors`.

HeatwardError
└── ServiceError                  INTERNAL
    ├── RequestError              INVALID_ARGUMENT     a field of the request, named by its path
    ├── UnauthenticatedError      UNAUTHENTICATED      a token is required and is missing or unknown
    ├── MessageSizeError          RESOURCE_EXHAUSTED   a compressed message is too large once inflated
    ├── ExhaustedError            RESOURCE_EXHAUSTED   not now; says when to come back
    │   ├── QueueFullError                             no room for another image
    │   ├── QuotaError                                 the caller's images a second are used up
    │   └── TooLateError          RESOURCE_EXHAUSTED   too much waits: the image would be done too late
    ├── ExpiredError              DEADLINE_EXCEEDED    the deadline passed before the answer was there
    ├── ModelNotFoundError        NOT_FOUND            no model of this name
    ├── NotReadyError             UNAVAILABLE          starting or draining
    ├── UnknownVersionError       NOT_FOUND            no detector of that version is loaded
    ├── EngineStoppedError        UNAVAILABLE          the engine thread ended
    ├── ForbiddenError            PERMISSION_DENIED    the caller's token does not allow it
    ├── RecordNotFoundError       NOT_FOUND            no such image was recorded
    ├── UnwritableError           UNAVAILABLE          what was sent cannot be kept
    ├── DetectionError            INTERNAL             a defect: the log holds the traceback
    └── GuardError                                     guard mode; google.rpc.ErrorInfo has reason and metadata
        ├── AdversarialInputError FAILED_PRECONDITION  ADVERSARIAL_INPUT    an image is attacked
        ├── UnjudgedError         UNAVAILABLE          NOT_JUDGED           there is no verdict
        └── UnguardedError        UNIMPLEMENTED        NOT_GUARDED          a door past the guard

The name beside an error is the canonical gRPC status code that it is answered with.
"""

from __future__ import annotations

from asyncio import CancelledError
from typing import ClassVar

from detector.errors import HeatwardError

__all__ = [
    "AdversarialInputError",
    "DetectionError",
    "EngineStoppedError",
    "ExhaustedError",
    "ExpiredError",
    "ForbiddenError",
    "GuardError",
    "MessageSizeError",
    "ModelNotFoundError",
    "NotReadyError",
    "QueueFullError",
    "QuotaError",
    "RecordNotFoundError",
    "RequestError",
    "ServiceError",
    "TooLateError",
    "UnauthenticatedError",
    "UnguardedError",
    "UnjudgedError",
    "UnknownVersionError",
    "UnwritableError",
    "code_of",
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


class UnauthenticatedError(ServiceError):
    """A token is required and is missing or unknown."""

    code = "UNAUTHENTICATED"


class MessageSizeError(ServiceError):
    """A compressed message is too large once inflated."""

    code = "RESOURCE_EXHAUSTED"


class ExhaustedError(ServiceError):
    """Not now; `retry_after_s` says when."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(ExhaustedError):
    """There is no room for another image."""


class QuotaError(ExhaustedError):
    """The caller's images a second are used up."""


class TooLateError(QueueFullError):
    """So much waits that the image would be done after its deadline."""


class ExpiredError(ServiceError):
    """The deadline passed before the answer was there."""

    code = "DEADLINE_EXCEEDED"


class ModelNotFoundError(ServiceError):
    """No model of this name is served."""

    code = "NOT_FOUND"


class NotReadyError(ServiceError):
    """The server is starting or draining."""

    code = "UNAVAILABLE"


class UnknownVersionError(ServiceError):
    """No detector of that version is loaded."""

    code = "NOT_FOUND"


class EngineStoppedError(ServiceError):
    """The thread that owns the model ended."""

    code = "UNAVAILABLE"


class ForbiddenError(ServiceError):
    """The caller is known, and may not do this."""

    code = "PERMISSION_DENIED"


class RecordNotFoundError(ServiceError):
    """No image of this id was recorded."""

    code = "NOT_FOUND"


class UnwritableError(ServiceError):
    """The disk does not take what was sent."""

    code = "UNAVAILABLE"


class DetectionError(ServiceError):
    """The detector failed on an image for a reason that is not the image's."""


class GuardError(ServiceError):
    """The guard refuses a call; `reason` and `metadata` are for programs (AIP-193)."""

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata = metadata


class AdversarialInputError(GuardError):
    """An image of the call is attacked, and the policy is to reject it."""

    code = "FAILED_PRECONDITION"
    reason = "ADVERSARIAL_INPUT"


class UnjudgedError(GuardError):
    """There is no verdict, or it cannot be acted on, and the guard fails closed."""

    code = "UNAVAILABLE"
    reason = "NOT_JUDGED"


class UnguardedError(GuardError):
    """The method would reach the guarded model past the guard."""

    code = "UNIMPLEMENTED"
    reason = "NOT_GUARDED"


def code_of(error: BaseException) -> str:
    """The canonical gRPC status code of what ended a request."""
    if isinstance(error, CancelledError):
        return "CANCELLED"
    return error.code if isinstance(error, HeatwardError) else "INTERNAL"

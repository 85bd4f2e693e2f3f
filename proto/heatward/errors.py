"""What goes wrong in a call: a gRPC error goes in, a `DetectionError` that names the wrong field comes out.

The rich details (google.rpc.BadRequest, google.rpc.RetryInfo) travel in the trailing metadata
`grpc-status-details-bin` as a google.rpc.Status, see https://google.aip.dev/193.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

__all__ = ["DetectionError", "Violation", "arrived", "error_from_rpc", "status_parts"]

DETAILS_KEY = "grpc-status-details-bin"

T = TypeVar("T")


@dataclass(frozen=True)
class Violation:
    """One field of the request that the server refused."""

    field: str
    """Path from the top of the request, e.g. "image.encoded"."""
    description: str


class DetectionError(Exception):
    """A call that brought no verdict.

    Attributes:
        code: Name of the gRPC status code, e.g. "INVALID_ARGUMENT", "UNAVAILABLE", "DEADLINE_EXCEEDED".
        message: What the server says or, when none answered, why not and what to do.
        violations: The fields that were wrong, for INVALID_ARGUMENT.
        retry_after_s: How long to wait before a retry, where the server says so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        violations: tuple[Violation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.violations = violations
        self.retry_after_s = retry_after_s
        super().__init__(code, message, violations, retry_after_s)

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        lines += [f"  {v.field}: {v.description}" for v in self.violations if v.description != self.message]
        if self.retry_after_s is not None:
            lines.append(f"  retry after {self.retry_after_s:g} s")
        return "\n".join(lines)


def status_parts(status: status_pb2.Status) -> tuple[str, str, tuple[Violation, ...], float | None]:
    """Takes a google.rpc.Status apart: code name, message, violations, seconds until a retry."""
    violations: list[Violation] = []
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    known = code_pb2.Code.DESCRIPTOR.values_by_number.get(status.code)
    return known.name if known else f"CODE_{status.code}", status.message, tuple(violations), retry_after_s


def error_from_rpc(
    error: grpc.RpcError, explain: Callable[[str, str], str] = lambda code, details: details
) -> DetectionError:
    """The `DetectionError` for an error of the synchronous or the asyncio gRPC library.

    Args:
        error: As gRPC raised it.
        explain: Given its code and details, says what they mean.
    """
    code = error.code()
    name = code.name if code else "UNKNOWN"
    message = explain(name, error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        try:
            _, _, violations, retry_after_s = status_parts(status_pb2.Status.FromString(value))
        except DecodeError:
            break  # a proxy's idea of details; code and message still stand
        return DetectionError(name, message, violations, retry_after_s)
    return DetectionError(name, message)


def arrived(response: T | None) -> T:
    """The message of a call that ended well; gRPC may have none where the deadline passes as it arrives.

    A race that is known (https://github.com/grpc/grpc/issues/23559).

    Raises:
        DetectionError: There is none.
    """
    if response is None:
        raise DetectionError("DEADLINE_EXCEEDED", "the deadline passed while the answer arrived")
    return response

"""Errors → **google.rpc.Status**: code, message, and the details that a client can act on.

BadRequest names the field at fault, RetryInfo says when to come back, ErrorInfo why the guard refused (google.rpc error
model, AIP-193).
"""

from __future__ import annotations

import logging

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from detector.errors import HeatwardError
from detector.text import printable
from server.errors import ExhaustedError, GuardError, RequestError

__all__ = ["code_name", "passed_on", "to_grpc", "to_status"]

PUSHBACK = "grpc-retry-pushback-ms"
"""Read by gRPC's own retries (https://github.com/grpc/proposal/blob/master/A6-client-retries.md)."""

LONGEST_BYTES = 700
LONGEST_FIELD_BYTES = 200
"""Clients drop metadata above 8 KiB, and with it the status. Message and details travel there together: each byte of
the message that is not ASCII as three ("%F0"), the details with four for three (base64)."""

LONGEST_PASSED_BYTES = 3000
"""Of what another server answered: metadata together, and the message once it is escaped."""

log = logging.getLogger("heatward.service")

Metadata = tuple[tuple[str, str | bytes], ...]


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """Translates an error; what is not ours becomes INTERNAL and is logged with its traceback."""
    if not isinstance(error, HeatwardError):
        log.error("a defect in the server", exc_info=error, extra={"request_id": request_id})
        message = f"a defect in the server; its log says more under request id {printable(request_id)}"
        return status_pb2.Status(code=code_pb2.INTERNAL, message=message)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_short(str(error)))
    if isinstance(error, RequestError):
        _violation(status, _short(error.field, LONGEST_FIELD_BYTES), _short(error.description))
    elif isinstance(error, ExhaustedError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    elif isinstance(error, GuardError):
        metadata = {key: _short(value) for key, value in error.metadata.items()}
        info = error_details_pb2.ErrorInfo(reason=error.reason, domain="heatward", metadata=metadata)
        status.details.add().Pack(info)
    return status


def to_grpc(status: status_pb2.Status, remaining_s: float | None = None) -> grpc.Status:
    """The same as code, message and trailing metadata of a call, which has so much time left (None: any).

    A client's own retries are held back until they can help, and off where they cannot.
    """
    answer = rpc_status.to_status(status)
    if status.code != code_pb2.RESOURCE_EXHAUSTED:
        return answer
    pause_ms = -1
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            pause_ms = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds()
    if remaining_s is not None and pause_ms > remaining_s * 1e3:
        pause_ms = -1
    return answer._replace(trailing_metadata=(*answer.trailing_metadata, (PUSHBACK, str(pause_ms))))


def passed_on(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Another server's status, as it came but for what would be too long for the caller."""
    trailing, left = [], LONGEST_PASSED_BYTES
    for key, value in error.trailing_metadata() or ():
        if len(key) + len(value) <= left:
            trailing.append((key, value))
            left -= len(key) + len(value)
    return error.code(), _cut(error.details() or "", LONGEST_PASSED_BYTES // 3), tuple(trailing)


def code_name(status: status_pb2.Status) -> str:
    return str(code_pb2.Code.Name(status.code))


def _short(text: str, longest: int = LONGEST_BYTES) -> str:
    return _cut(printable(text, longest), longest)


def _cut(text: str, longest: int) -> str:
    data = text[: longest + 1].encode(errors="replace")
    return text if len(data) <= longest else data[:longest].decode(errors="ignore") + "…"


def _violation(status: status_pb2.Status, field: str, description: str) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))

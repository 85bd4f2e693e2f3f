"""Errors → **google.rpc.Status**: code, message, and the details that a client can act on.

BadRequest names the field at fault, RetryInfo says when to come back (google.rpc error model, AIP-193).
"""

from __future__ import annotations

import logging

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from detector.errors import HeatwardError
from server.errors import QueueFullError, RequestError

__all__ = ["code_name", "to_grpc", "to_status"]

log = logging.getLogger("heatward.service")


def to_status(error: Exception, request_id: str) -> status_pb2.Status:
    """Translates an error; what is not ours becomes INTERNAL and is logged with its traceback."""
    if not isinstance(error, HeatwardError):
        log.error("a defect in the server", exc_info=error, extra={"request_id": request_id})
        message = f"a defect in the server; its log says more under request id {request_id}"
        return status_pb2.Status(code=code_pb2.INTERNAL, message=message)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=str(error))
    if isinstance(error, RequestError):
        _violation(status, error.field, error.description)
    elif isinstance(error, QueueFullError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    return status


def to_grpc(status: status_pb2.Status) -> grpc.Status:
    """The same as code, message and trailing metadata of a call."""
    return rpc_status.to_status(status)


def code_name(status: status_pb2.Status) -> str:
    return str(code_pb2.Code.Name(status.code))


def _violation(status: status_pb2.Status, field: str, description: str) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))

"""The gRPC health check (grpc.health.v1), written out by hand: both of its messages have one field.

A service name goes in, True for SERVING comes out; grpcio-health-checking is not needed.
See https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

from typing import Any

from heatward.client.checks import shown

__all__ = ["CHECK", "check_service", "encode_request", "is_serving"]

CHECK = "/grpc.health.v1.Health/Check"

FIELD_1_BYTES = b"\x0a"  # HealthCheckRequest.service
FIELD_1_VARINT = 0x08  # HealthCheckResponse.status
SERVING = 1
MAX_NAME_BYTES = 127  # longer needs a second length byte


def check_service(service: Any) -> None:
    """Before it is sent.

    Raises:
        TypeError, ValueError: It is no service's name.
    """
    expected = "service is a name such as 'heatward.v1.DetectionService', or '' for the server as a whole"
    if not isinstance(service, str):
        raise TypeError(f"{expected}; this is {shown(service)}")
    if not service.isascii() or len(service) > MAX_NAME_BYTES:
        raise ValueError(f"{expected}, at most {MAX_NAME_BYTES} ASCII characters; this is {shown(service)}")


def encode_request(service: str) -> bytes:
    """HealthCheckRequest; an empty name asks for the server as a whole."""
    name = service.encode()
    return FIELD_1_BYTES + bytes([len(name)]) + name if name else b""


def is_serving(response: bytes) -> bool:
    """Reads HealthCheckResponse: SERVING, as opposed to UNKNOWN, NOT_SERVING or SERVICE_UNKNOWN."""
    return len(response) >= 2 and response[0] == FIELD_1_VARINT and response[1] == SERVING

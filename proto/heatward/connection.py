"""How the client reaches a server: address, TLS, token and retry settings go in, a gRPC channel comes out.

Retries are gRPC's own (https://github.com/grpc/proposal/blob/master/A6-client-retries.md), set by the service config:
on UNAVAILABLE only, with back-off and jitter, within the call's deadline.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

__all__ = ["DEFAULT_ADDRESS", "DEFAULT_TIMEOUT_S", "Connection"]

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "heatward.v1.DetectionService"}, {"service": "grpc.health.v1.Health"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # gRPC gives up retrying a request that outgrows this buffer; its default, 256 KiB, is less than many photographs.
    ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
    # A batch of answers with heatmaps outgrows the default of 4 MiB.
    ("grpc.max_receive_message_length", 256 * 2**20),
    # Reconnect sooner than gRPC's one second, so that a retry finds a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True)
class Connection:
    """Where a server is and how to be let in.

    Attributes:
        address: "host:port", "unix:/path" or any gRPC target; a name with several addresses is used in turn.
        tls: False for plain text; True for TLS with the system's root certificates; or a PEM file (path or bytes)
            of root certificates.
        token: Sent as `authorization: Bearer …` with each call. Without TLS it travels readable.
        wait_for_ready: Calls wait for a server that is still starting, until their deadline.
    """

    address: str = DEFAULT_ADDRESS
    tls: bool | bytes | str | os.PathLike[str] = False
    token: str | None = None
    wait_for_ready: bool = False

    def __post_init__(self) -> None:
        scheme, separator, rest = self.address.partition("://")
        if separator and scheme in ("http", "https", "grpc", "grpcs"):
            raise ValueError(
                f"an address is host:port, e.g. {rest!r}; this is {self.address!r}"
                + (" (for TLS add tls=True)" if scheme in ("https", "grpcs") else "")
            )
        if not self.address:
            raise ValueError(f"an address is host:port, e.g. {DEFAULT_ADDRESS!r}; this one is empty")

    def open(self) -> grpc.Channel:
        """A channel for synchronous calls."""
        if self.tls is False:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, self._credentials(), options=OPTIONS)

    def open_async(self) -> grpc.aio.Channel:
        """A channel for the running event loop."""
        if self.tls is False:
            return grpc.aio.insecure_channel(self.address, options=OPTIONS)
        return grpc.aio.secure_channel(self.address, self._credentials(), options=OPTIONS)

    def call_arguments(self, timeout_s: float | None) -> dict[str, Any]:
        """Keyword arguments of every call."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else None
        return {"timeout": timeout_s, "metadata": metadata, "wait_for_ready": self.wait_for_ready}

    def _credentials(self) -> grpc.ChannelCredentials:
        if isinstance(self.tls, bool):
            return grpc.ssl_channel_credentials()
        if isinstance(self.tls, bytes):
            return grpc.ssl_channel_credentials(self.tls)
        return grpc.ssl_channel_credentials(Path(self.tls).read_bytes())

"""How the client reaches its servers: address, TLS, token and retry settings go in, a gRPC channel comes out.

Retries are gRPC's own (https://github.com/grpc/proposal/blob/master/A6-client-retries.md), set by the service config:
with back-off and jitter, or after the pause that the server asks for (`grpc-retry-pushback-ms`; a negative one means
"not again"), within the call's deadline. So are health checks (A17): a replica that says NOT_SERVING gets no new calls.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import grpc

from heatward.client.credentials import PEM, check_pair, clean_token, read_pem
from heatward.client.diagnosis import diagnose
from heatward.client.proxies import is_direct, proxy_variable
from heatward.client.target import DEFAULT_ADDRESS, target
from heatward.errors import DetectionError, error_from_rpc

__all__ = ["RETRIED", "Connection"]

RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""Not answered, and perhaps answered later or elsewhere. No call has side effects, so each is safe to repeat."""

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "heatward.v1.DetectionService"},
    "methodConfig": [
        {
            "name": [{"service": "heatward.v1.DetectionService"}, {"service": "grpc.health.v1.Health"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": RETRIED,
            },
        }
    ],
    # A failed attempt takes a token, a success gives half of one; no retries while half of the tokens are gone. So
    # retries end after 50 failures in a row, or while more than a third of the attempts fail.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # gRPC gives up retrying a request that outgrows this buffer; its default, 256 KiB, is less than many photographs.
    ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
    # A batch of answers with heatmaps outgrows the default of 4 MiB.
    ("grpc.max_receive_message_length", 256 * 2**20),
    # A server that hangs, or whose machine is gone, says nothing: ask every 10 s, leave it after 10 s of silence. In
    # gRPC 1.71 the second limit ends the wait for a ping's answer; the third ends what TCP cannot deliver.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # else gRPC stops asking after two times, on a stream that is quiet
    # Reconnect sooner than gRPC's one second, so that a retry finds a restarted server.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True)
class Connection:
    """Where the servers are and how to be let in. Its `repr` shows no secret.

    Attributes:
        address: "host:port", "unix:/path" or any gRPC target, or "ip:port,ip:port"; several addresses, of a name too,
            are used in turn.
        tls: False for plain text; True for TLS with the system's root certificates; or the root certificates.
        certificate: The client's own certificate chain, for a server that asks for one (mTLS); goes with `key`.
        key: The private key of `certificate`.
        server_name: The name in the servers' certificates, where it is not the host of `address`.
        token: Sent as `authorization: Bearer …` with each call. Without TLS it travels readable.
        wait_for_ready: Calls wait for a server that is still starting, until their deadline.
    """

    address: str = DEFAULT_ADDRESS
    tls: bool | PEM = field(default=False, repr=False)
    certificate: PEM | None = field(default=None, repr=False)
    key: PEM | None = field(default=None, repr=False)
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    wait_for_ready: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", clean_token(self.token))
        _, authority = target(self.address)
        if not isinstance(self.tls, (bool, bytes, str, os.PathLike)):
            raise TypeError("tls is True, False, or root certificates: a PEM file's content or path")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: give both, or neither")
        if self.tls is False and (self.certificate or self.server_name):
            raise ValueError("certificate, key and server_name are for TLS: add tls=True, or the root certificates")
        if self.tls is not False and authority and not self.server_name:
            raise ValueError("several addresses share one certificate name under TLS: add server_name=")

    def open(self, library: Any = grpc, *, health_checks: bool = True) -> Any:
        """A channel of grpc or, for the running event loop, of grpc.aio.

        Without health checks it also reaches a server that is NOT_SERVING.
        """
        place, authority = target(self.address)
        options = [*OPTIONS, ("grpc.inhibit_health_checking", int(not health_checks))]
        if is_direct(place):
            options.append(("grpc.enable_http_proxy", 0))
        if self.server_name or authority:
            options.append(("grpc.default_authority", self.server_name or authority or ""))
        if self.tls is False:
            return library.insecure_channel(place, options=options)
        return library.secure_channel(place, self._credentials(), options=options)

    def call_arguments(self, timeout_s: float | None) -> dict[str, Any]:
        """Keyword arguments of every call."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else None
        return {"timeout": timeout_s, "metadata": metadata, "wait_for_ready": self.wait_for_ready}

    def error(self, error: grpc.RpcError) -> DetectionError:
        """The `DetectionError` for an error of gRPC, with its cause named where no server answered."""
        place, _ = target(self.address)
        return error_from_rpc(
            error,
            lambda code, details: diagnose(
                code, details, address=self.address, tls=self.tls is not False, proxy=proxy_variable(place)
            ),
        )

    def _credentials(self) -> grpc.ChannelCredentials:
        roots = None if isinstance(self.tls, bool) else read_pem("tls", self.tls)
        key, certificate = read_pem("key", self.key), read_pem("certificate", self.certificate)
        check_pair(certificate, key)
        return grpc.ssl_channel_credentials(roots, key, certificate)

"""A `ServerConfig` ─▶ **what a connection may do**: gRPC's channel arguments, compression, and a word of warning.

Keepalive and connection age are gRPC's own (https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md).
"""

from __future__ import annotations

import ipaddress
import logging
import math

import grpc

from server.config import ServerConfig
from server.transport import messages

__all__ = ["COMPRESSION", "channel_options", "warn_where_open"]

log = logging.getLogger("heatward.app")

COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}
PINGS_ALLOWED_S = 5.0
"""Clients may check a connection for life this often, whatever `keepalive_s` is. Ours does so every 10 s; a third check
that comes sooner ends the connection ("too_many_pings"), so that nobody keeps the server busy with them."""
WINDOW_BYTES = 2**18
"""What a stream may send ahead of what is read of it, a longer message's rest excepted. Left to itself (BDP), gRPC lets
a fast sender grow this to tens of MiB a stream."""


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """Channel arguments of the server."""
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent neighbour
        ("grpc.keepalive_time_ms", _ms(config.keepalive_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(min(PINGS_ALLOWED_S, config.keepalive_s / 2))),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        *messages.OPTIONS,
    ]
    if config.max_connection_age_s is not None:
        options.append(("grpc.max_connection_age_ms", _ms(config.max_connection_age_s)))
    if config.max_connection_age_grace_s is not None:
        options.append(("grpc.max_connection_age_grace_ms", _ms(config.max_connection_age_grace_s)))
    return options


def warn_where_open(config: ServerConfig) -> None:
    """Logs a warning where others than this machine can reach the server unasked, or overhear its tokens."""
    if _is_loopback(config.host):
        return
    if config.tls_certificate is None and config.token_file is None:
        log.warning(
            "anyone who reaches %s may call, unencrypted: set tls_certificate and tls_key, and token_file or"
            " tls_client_ca",
            config.host,
        )
    elif config.tls_certificate is None:
        log.warning("tokens travel readable to %s: set tls_certificate and tls_key", config.host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _ms(seconds: float) -> int:
    longest = 2**31 - 1  # gRPC's word for never
    return longest if math.isinf(seconds) else max(1, min(round(seconds * 1e3), longest))

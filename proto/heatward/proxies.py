"""Whether a server is reached through an HTTP proxy: a gRPC target goes in, yes or no comes out.

gRPC takes its proxy from the environment variables below and would go through it even to this machine. Here servers
that are near (this machine, private networks) are reached directly, and so are several addresses, of which a proxy
could reach only one.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address, ip_address, ip_network

__all__ = ["is_direct", "proxy_variable"]

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order; it does not read them in capitals
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
NEAR = tuple(
    ip_network(network)
    for network in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "0.0.0.0/32",
        "::1/128", "::/128", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip
NEAR_NAMES = ("localhost", "local", "internal", "svc")  # the last parts of names that no proxy outside knows


def is_direct(target: str) -> bool:
    """Whether no proxy stands between, whatever the environment says.

    True for sockets of this machine, several addresses, loopback, private and link-local addresses, names without a
    dot (`localhost`, a Compose service), and those that end in .localhost, .local, .internal or .svc.
    """
    host = _host(target)
    if host is None:
        return True
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return "." not in host.rstrip(".") or host.rstrip(".").lower().rpartition(".")[2] in NEAR_NAMES
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in NEAR if network.version == ip.version)


def proxy_variable(target: str) -> str:
    """The name of the variable whose proxy gRPC uses for this target; "" for none."""
    if is_direct(target):
        return ""
    host = (_host(target) or "").lower()
    excepted = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    if any(host.endswith(entry.strip().lower()) for entry in excepted.split(",") if entry.strip()):
        return ""
    return next((name for name in VARIABLES if os.environ.get(name)), "")


def _host(target: str) -> str | None:
    """None for what has no single host."""
    if "," in target or re.match(r"(unix|unix-abstract|vsock):", target):
        return None
    place = re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", target).lstrip("/")
    try:
        return str(ip_address(place))  # IPv6 without a port
    except ValueError:
        host, colon, _ = place.rpartition(":")
        return (host if colon else place).strip("[]")

"""Whether a server is reached through an HTTP proxy: a gRPC target goes in, yes or no comes out.

gRPC takes its proxy from the environment variables below and would go through it even to this machine. Here servers
that are near (this machine, private networks) are reached directly, and so are several addresses, of which a proxy
could reach only one.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

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
NEAR_NAMES = ("localhost", "localdomain", "local", "lan", "home.arpa", "internal", "svc")
"""The last parts of names that no proxy outside knows."""


def is_direct(target: str) -> bool:
    """Whether no proxy stands between, whatever the environment says.

    True for sockets of this machine, several addresses, loopback, private and link-local addresses, names without a
    dot (`localhost`, a Compose service), and those that end in a name that no proxy outside knows.
    """
    host = _host(target)
    if host is None:
        return True
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(tuple(f".{near}" for near in NEAR_NAMES))
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in NEAR if network.version == ip.version)


def proxy_variable(target: str) -> str:
    """The name of the variable whose proxy gRPC uses for this target; "" for none.

    gRPC looks at the first that is set, and ignores it where it is no http:// URL with a host.
    """
    if is_direct(target):
        return ""
    host = (_host(target) or "").lower()
    excepted = next((os.environ[name] for name in EXCEPTIONS if os.environ.get(name)), "")
    if any(_is_excepted(host, entry.strip().lower()) for entry in excepted.split(",") if entry.strip()):
        return ""
    name = next((name for name in VARIABLES if os.environ.get(name)), "")
    return name if _is_used(os.environ.get(name, "")) else ""


def _is_excepted(host: str, entry: str) -> bool:
    """An entry of no_proxy is the end of a name, or a network such as 203.0.113.0/24."""
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return host.endswith(entry)


def _is_used(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy)
        return parts.scheme == "http" and bool(parts.hostname)
    except ValueError:
        return False


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

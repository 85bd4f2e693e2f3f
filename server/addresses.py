"""The setting `host`, however it is spelled ─▶ **the addresses that both ports listen on** ─▶ what a client writes.

127.0.0.1, ::1, [::1], localhost, a name of this machine; 0.0.0.0 and [::] for every address of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket

from detector.text import printable

__all__ = ["addresses_of", "taken", "with_port", "without_brackets"]

WITH_PORT = re.compile(r"(\[.*\]|[^:]*):\d*")
NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")


def without_brackets(host: str) -> str:
    """The host as both ports take it.

    Raises:
        ValueError: It is none; says what it is instead.
    """
    host = host.strip()
    if not host:
        raise ValueError("expected an address of this machine; 0.0.0.0 or [::] for all of them")
    if "/" in host or host.startswith("unix:"):
        raise ValueError("expected a host alone: no URL, and no socket in the file system")
    if WITH_PORT.fullmatch(host):
        raise ValueError("expected a host alone: the ports stand in port and metrics_port")
    bare = host[1:-1] if host[0] + host[-1] == "[]" else host
    if ":" in bare:
        if "%" in bare:
            raise ValueError("the metrics cannot be served on an address with a zone: name one without, or [::]")
        try:
            ipaddress.IPv6Address(bare)
        except ValueError as error:
            raise ValueError(f"no IPv6 address: {printable(str(error))}") from None
    elif bare != host or not NAME.fullmatch(bare):
        raise ValueError("expected one address or host name; 0.0.0.0 or [::] for every address of this machine")
    return bare


def with_port(host: str, port: int) -> str:
    """What a client writes."""
    with contextlib.suppress(OSError, UnicodeError):  # 127.1 and 0 are numbers too, but few clients know them
        host = str(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses_of(host: str) -> list[str]:
    """The addresses of this machine that the host means, IPv4 first.

    Raises:
        OSError: It has none, or they are another machine's.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(
            f"host = {host} has no address ({_reason(error)}): name an address of this machine, 0.0.0.0 for all"
        ) from error
    here, fault = [], ""
    for family, _, _, _, place in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        try:
            with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
                probe.bind(place)
            here.append(str(place[0]))
        except OSError as error:
            fault = _reason(error)
    if not here:
        raise OSError(
            f"host = {host} is no address that this machine can listen on ({fault}): name one of its own, or 0.0.0.0"
        )
    return list(dict.fromkeys(here))


def taken(address: str, port: int) -> str:
    """Why nobody can listen there, in the system's words; empty where one can."""
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

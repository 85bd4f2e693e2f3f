"""How the commands reach their server: arguments go in, a `Client` comes out; an error goes in, advice comes out."""

from __future__ import annotations

import argparse
import os
from ipaddress import ip_address

from heatward.client import Client
from heatward.commands.options import TOKEN_VARIABLE
from heatward.errors import DetectionError

__all__ = ["connect", "explain"]

BYTE_ORDER_MARK = "\ufeff"


def connect(arguments: argparse.Namespace, address: str | None = None) -> Client:
    return Client(
        arguments.address if address is None else address,
        timeout_s=arguments.timeout,
        tls=arguments.tls_roots or arguments.tls,
        certificate=arguments.tls_certificate,
        key=arguments.tls_key,
        server_name=arguments.tls_server_name,
        token=_token(),
    )


def explain(error: DetectionError, address: str) -> str:
    """One line: what failed, where, and what to do about it."""
    reasons = [f"{v.field}: {v.description}" for v in error.violations if v.description != error.message]
    said = "; ".join([" ".join(error.message.split("\n")), *reasons])
    if error.code == "UNAVAILABLE" and "refused" in said.lower() and _is_loopback(address):
        return f"no server answers at {address}: start one with `heatward serve`, or name its address ({said})"
    if error.code == "UNAUTHENTICATED":
        fault = "the server does not take the token in" if _token() else "the server asks for a token: set"
        return f"{address}: {error.code}: {said}: {fault} the environment variable {TOKEN_VARIABLE}"
    if error.code == "UNIMPLEMENTED":
        return f"{address}: {error.code}: {said}: what listens there is not a heatward server, or an older one"
    return f"{address}: {error.code}: {said}"


def _token() -> str | None:
    """The token of the environment, without what editors and secret files leave at its ends.

    Raises:
        ValueError: It cannot be sent; the message does not show it.
    """
    written = os.environ.get(TOKEN_VARIABLE, "")
    token = os.fsencode(written).decode("utf-8", "replace").strip().strip(BYTE_ORDER_MARK).strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError(
            f"the token in the environment variable {TOKEN_VARIABLE} holds a character that cannot be sent: "
            "a token is printable ASCII, on one line"
        )
    return token or None


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    place = address.partition(",")[0].rpartition("/")[2].removeprefix("ipv4:").removeprefix("ipv6:")
    host = place.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False

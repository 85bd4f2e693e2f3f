"""How the commands reach their server: arguments go in, a `Client` comes out; an error goes in, advice comes out."""

from __future__ import annotations

import argparse
import os

from heatward.cli.options import TOKEN_VARIABLE
from heatward.client.credentials import clean_token
from heatward.client.sync import Client
from heatward.errors import DetectionError

__all__ = ["connect", "explain"]


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
    reasons = [f"{v.field}: {v.description}" for v in error.violations if v.description not in error.message]
    said = "; ".join([" ".join(error.message.split("\n")), *reasons])
    if error.code == "UNAUTHENTICATED":
        fault = "the server does not take the token in" if _token() else "the server asks for a token: set"
        said = f"{said}: {fault} the environment variable {TOKEN_VARIABLE}"
    return f"{error.code}: {said}" if address in said else f"{address}: {error.code}: {said}"


def _token() -> str | None:
    """The token of the environment; what surrounds it is cut.

    Raises:
        ValueError: It cannot be sent; the message does not show it.
    """
    try:
        return clean_token(os.fsencode(os.environ.get(TOKEN_VARIABLE, "")).decode("utf-8", "replace"))
    except ValueError as error:
        raise ValueError(f"environment variable {TOKEN_VARIABLE}: {error}") from None

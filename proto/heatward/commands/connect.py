"""The options by which every command finds its server: arguments go in, a `Client` comes out."""

from __future__ import annotations

import argparse
import os

from heatward.client import Client
from heatward.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S

__all__ = ["add_connection_options", "connect", "positive_number", "say_where"]

TOKEN_VARIABLE = "HEATWARD_TOKEN"


def add_connection_options(parser: argparse.ArgumentParser, *, address: bool = True) -> None:
    group = parser.add_argument_group("the server")
    if address:
        group.add_argument(
            "--address",
            default=DEFAULT_ADDRESS,
            metavar="HOST:PORT",
            help="where the server listens, or ip:port,ip:port (%(default)s)",
        )
    group.add_argument(
        "--timeout",
        type=positive_number,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="longest wait for an answer (%(default)g)",
    )
    group.add_argument("--tls", action="store_true", help="use TLS, with the system's root certificates")
    group.add_argument("--tls-roots", metavar="FILE.pem", help="use TLS, with the root certificates of this file")
    group.add_argument("--tls-certificate", metavar="FILE.pem", help="your own certificate, if the server asks for one")
    group.add_argument("--tls-key", metavar="FILE.pem", help="the private key of that certificate")
    group.add_argument("--tls-server-name", metavar="NAME", help="the server's name in its certificate")
    parser.epilog = f"A token for the server is read from the environment variable {TOKEN_VARIABLE}."


def connect(arguments: argparse.Namespace, address: str | None = None) -> Client:
    return Client(
        address or arguments.address,
        timeout_s=arguments.timeout,
        tls=arguments.tls_roots or arguments.tls,
        certificate=arguments.tls_certificate,
        key=arguments.tls_key,
        server_name=arguments.tls_server_name,
        token=os.environ.get(TOKEN_VARIABLE) or None,
    )


def say_where(address: str, code: str) -> str:
    """What to do about a call that failed as a whole."""
    if code == "UNAVAILABLE":
        return f"no server answers at {address}: start one with `heatward serve`, or name its --address"
    if code == "UNAUTHENTICATED":
        return f"set the environment variable {TOKEN_VARIABLE} to the server's token"
    if code == "UNIMPLEMENTED":
        return f"what listens at {address} is not a heatward server"
    return ""


def positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number

"""`heatward health`: exit code 0 when the server answers requests, 1 when it does not."""

from __future__ import annotations

import os

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, add_connection_options
from heatward.cli.output import write
from heatward.cli.text import printable

__all__ = ["health"]

PORT_VARIABLE = "HEATWARD_SERVE_PORT"
"""The server's setting: a container's health check asks where the server of the same container listens."""
LONGEST_REASON = 1000


def health(argv: list[str]) -> int:
    parser = Parser(
        prog="heatward health",
        description="Exit code 0: the server answers requests. 1: it is starting, draining, or not there.",
    )
    parser.add_argument("--service", default="", metavar="NAME", help="one gRPC service of the server (default: all)")
    add_connection_options(parser)
    port = os.environ.get(PORT_VARIABLE, "")
    if port.isdecimal():  # Kubernetes makes tcp://… of a Service
        parser.set_defaults(address=f"127.0.0.1:{port}")
    arguments = parser.parse_args(argv)

    from heatward.cli.connect import connect, explain
    from heatward.errors import DetectionError

    serving, reason = False, ""
    try:
        with connect(arguments) as client:
            serving = client.health(arguments.service)
    except DetectionError as error:
        reason = explain(error, arguments.address)
    except (OSError, ValueError) as error:
        reason = str(error)
    write("SERVING" if serving else f"NOT_SERVING ({printable(reason, LONGEST_REASON)})" if reason else "NOT_SERVING")
    return ExitCode.OK if serving else ExitCode.FAILED

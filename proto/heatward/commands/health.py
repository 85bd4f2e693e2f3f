"""`heatward health`: exit code 0 when the server answers requests, 1 when it does not."""

from __future__ import annotations

import argparse

from heatward.commands.connect import add_connection_options, connect
from heatward.errors import DetectionError

__all__ = ["health"]


def health(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="heatward health",
        description="Exit code 0: the server answers requests. 1: it is starting, draining, or not there.",
    )
    parser.add_argument("--service", default="", metavar="NAME", help="one gRPC service of the server (default: all)")
    add_connection_options(parser)
    arguments = parser.parse_args(argv)
    try:
        with connect(arguments) as client:
            serving = client.health(arguments.service)
    except (DetectionError, OSError, ValueError) as error:
        print(f"NOT_SERVING ({error})")
        return 1
    print("SERVING" if serving else "NOT_SERVING")
    return 0 if serving else 1

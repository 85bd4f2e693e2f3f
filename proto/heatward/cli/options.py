"""The options of all commands: words go in, checked values come out. Nothing here imports gRPC.

A mistake is one line on standard error that names the option.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from heatward.cli.exit_codes import ExitCode
from heatward.cli.output import complain, write
from heatward.cli.text import nearest, printable
from heatward.client.target import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, target

__all__ = ["TOKEN_VARIABLE", "Parser", "add_connection_options", "count", "rate", "seconds", "words"]

TOKEN_VARIABLE = "HEATWARD_TOKEN"
LARGEST_COUNT = 2**31 - 1
LONGEST = 500
"""Characters of a complaint."""


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest option, and says what is wrong in one line."""

    def parse_args(self, words: Sequence[str] | None = None) -> argparse.Namespace:  # type: ignore[override]
        words = sys.argv[1:] if words is None else words
        known = [*self._option_string_actions]
        for word in words:
            if word == "--":
                break
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and not any(option.startswith(name) for option in known):
                self.error(f"there is no option '{printable(name)}'{nearest(name, known)}")
        return super().parse_args(words)

    def print_help(self, file: object = None) -> None:
        write(self.format_help().rstrip())

    def error(self, message: str) -> NoReturn:
        complain(self.prog, f"{printable(message, LONGEST)} ({self.prog} --help)")
        self.exit(ExitCode.MISTAKE)


def add_connection_options(parser: argparse.ArgumentParser, *, address: bool = True) -> None:
    group = parser.add_argument_group("the server")
    if address:
        group.add_argument(
            "--address",
            type=_address,
            default=DEFAULT_ADDRESS,
            metavar="HOST:PORT",
            help="where the server listens, or ip:port,ip:port (%(default)s)",
        )
    group.add_argument(
        "--timeout",
        type=seconds,
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


def seconds(text: str) -> float:
    return _number(text, "a number of seconds above 0", 0, float("inf"))


def rate(text: str) -> float:
    return _number(text, "a rate between 0 and 1, e.g. 0.01 for 1 %", 0, 1)


def count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= LARGEST_COUNT:
        raise _wrong(text, "a whole number, at least 1")
    return number


def words(text: str) -> tuple[str, ...]:
    """`a, b` → ("a", "b")."""
    return tuple(word for each in text.split(",") if (word := each.strip()))


def _number(text: str, expected: str, above: float, below: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _wrong(text, expected) from None
    if not above < number < below:  # nor is nan
        raise _wrong(text, expected)
    return number


def _address(text: str) -> str:
    try:
        target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _wrong(text: str, expected: str) -> Any:
    return argparse.ArgumentTypeError(f"'{printable(text)}' is not {expected}")

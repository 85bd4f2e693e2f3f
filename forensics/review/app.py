"""`heatward review`: a folder of records in, a page on this machine out, on which people say what the images were.

record_folder of the server ─▶ http://127.0.0.1:8090 ─▶ labels in the same folder
"""

from __future__ import annotations

import argparse
import getpass
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, words

from detector.errors import ConfigError, HeatwardError
from detector.text import printable

__all__ = ["main", "run"]

ANY = ("0.0.0.0", "::")
"""Every address of this machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """`run`, with errors said on stderr."""
    try:
        return run(argv)
    except HeatwardError as error:
        print(f"heatward review: {printable(str(error), None)}", file=sys.stderr)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def run(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted.

    Raises:
        HeatwardError: A folder, a bundle or an address that cannot be used.
        SystemExit: `--help`, or words that argparse refuses.
    """
    arguments = _parse(argv)
    try:
        import uvicorn

        from forensics.review.access import guards, is_loopback, read_tokens
        from forensics.review.archive import Archive
        from forensics.review.site import Site
    except ModuleNotFoundError as error:
        raise ConfigError(f"the module {error.name!r} is not installed: pip install -e '.[review]'") from error
    tokens = None if arguments.token_file is None else read_tokens(arguments.token_file)
    if tokens is None and not is_loopback(arguments.host):
        raise ConfigError(f"--host {arguments.host}: others reach this address: give --token-file, too")
    if arguments.host in ANY and not arguments.name:
        raise ConfigError(f"--host {arguments.host}: say by which name browsers call this machine: --name HOST")
    Archive(arguments.records)  # before torch is imported, which takes seconds
    judge, classes = None, tuple[str, ...]()
    if arguments.bundle is not None:
        from forensics.review.judge import open_judge

        judge, classes = open_judge(arguments.bundle, arguments.trusted)
    address = f"[{arguments.host}]" if ":" in arguments.host else arguments.host  # as browsers write it
    site = Site(
        Archive(arguments.records, classes),
        guards(tokens, arguments.reviewer or _user(), [address, *arguments.name]),
        judge,
    )
    listening = _listen(arguments.host, arguments.port)
    print(f"http://{address}:{listening.getsockname()[1]}/", flush=True)
    logging.getLogger("heatward.records").setLevel(logging.ERROR)  # the page says what is skipped
    config = uvicorn.Config(
        site.app(), log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listening])
    return ExitCode.OK


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen: {error.strerror}; name another port") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise ConfigError("this user has no name: say who labels with --as NAME") from error


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "heatward review",
        description="Show what a server recorded and flagged, or nearly, on a page, and take the truth about it.",
        epilog="Keys: J next, K previous, F false alarm, A attack, T true label. See docs/review.md.",
        allow_abbrev=False,
    )
    parser.add_argument("records", type=Path, metavar="RECORDS", help="what record_folder of the server names")
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="draws the heatmaps whose evidence is not recorded")
    parser.add_argument(
        "--as", dest="reviewer", default="", metavar="NAME", help="who labels (default: your user name)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=_port, default=8090, metavar="N", help="0 picks a free one (%(default)s)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="who may come in, `name token` a line; required where others reach the address",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name by which others call this machine; repeatable",
    )
    parser.add_argument(
        "--trusted",
        type=words,
        default=(),
        metavar="A,B",
        help="Python modules that a bundle's classifier may be built from, and HOST:PORT it may be asked at",
    )
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{printable(text)}' is not a port from 0 to 65535")
    return int(text)

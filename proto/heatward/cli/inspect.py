"""`heatward inspect`: a bundle's path or a server's address goes in, what it holds comes out as text or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from heatward.cli.bundles import NotABundleError, read_manifest
from heatward.cli.columns import open_console
from heatward.cli.exit_codes import ExitCode
from heatward.cli.facts import bundle_lines, server_lines
from heatward.cli.options import Parser, add_connection_options
from heatward.cli.output import complain, json_text, write
from heatward.cli.text import printable

__all__ = ["inspect"]

NAME = "heatward inspect"
ADDRESS = re.compile(r"(?:[a-z0-9+.-]+:.*[^:]|.*:\d+)", re.IGNORECASE)


def inspect(argv: list[str]) -> int:
    parser = Parser(
        prog=NAME,
        description="Shows what a bundle or a running server holds. Of a bundle, only the manifest is read.",
    )
    parser.add_argument("target", metavar="BUNDLE | HOST:PORT", help="a bundle (folder or .heatward file) or a server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_options(parser, address=False)
    arguments = parser.parse_args(argv)
    try:
        text = _shown(arguments.target, arguments)
    except RecursionError:
        complain(NAME, f"{arguments.target}: the manifest nests too deep: the bundle is damaged")
        return ExitCode.MISTAKE
    except (NotABundleError, OSError, ValueError) as error:
        complain(NAME, str(error))
        return ExitCode.MISTAKE
    write(text)
    return ExitCode.OK


def _shown(target: str, arguments: argparse.Namespace) -> str:
    if target and Path(target).exists():
        manifest = read_manifest(Path(target))
        return json_text(manifest, indent=2) if arguments.json else bundle_lines(target, manifest, open_console())
    if not ADDRESS.fullmatch(target):
        raise ValueError(f"'{printable(target)}': no such file, nor an address HOST:PORT")

    from heatward.cli.connect import connect, explain
    from heatward.errors import DetectionError

    try:
        with connect(arguments, target) as client:
            info = client.describe()
    except DetectionError as error:
        raise ValueError(explain(error, target)) from error
    return json_text(dataclasses.asdict(info), indent=2) if arguments.json else server_lines(info, open_console())

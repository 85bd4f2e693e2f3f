"""`heatward inspect`: a bundle's path or a server's address goes in, what it holds comes out as text or JSON.

Of a bundle, a directory or a `.heatward` zip, it reads `manifest.json` only, with a bound on its size: no weights, no
code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from heatward.cli.columns import open_console
from heatward.cli.exit_codes import ExitCode
from heatward.cli.facts import bundle_lines, server_lines
from heatward.cli.options import Parser, add_connection_options
from heatward.cli.output import complain, json_text, write
from heatward.cli.text import printable

__all__ = ["inspect"]

NAME = "heatward inspect"
MANIFEST = "manifest.json"
FORMAT = "heatward-bundle"
MAX_MANIFEST_BYTES = 16 * 2**20
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
    except (OSError, ValueError) as error:
        complain(NAME, str(error))
        return ExitCode.MISTAKE
    write(text)
    return ExitCode.OK


def _shown(target: str, arguments: argparse.Namespace) -> str:
    if target and Path(target).exists():
        manifest = _manifest_of(Path(target))
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


def _manifest_of(path: Path) -> dict[str, Any]:
    """The manifest as it was written, unverified: `heatward serve` verifies a bundle when it loads it."""
    try:
        manifest = json.loads(_manifest_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {MANIFEST} is not JSON ({error}): the bundle is damaged") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: {MANIFEST} does not say format = {FORMAT!r}: not a heatward bundle")
    return manifest


def _manifest_bytes(path: Path) -> bytes:
    if path.is_dir():
        file = path / MANIFEST
        if not file.is_file():
            raise ValueError(f"{path}: a folder without {MANIFEST}: not a heatward bundle")
        with file.open("rb") as opened:
            return _bounded(path, opened.read(MAX_MANIFEST_BYTES + 1))
    if not path.is_file():  # a pipe or a device may have no end
        raise ValueError(f"{path}: neither a folder nor a regular file")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MANIFEST) as opened:
            return _bounded(path, opened.read(MAX_MANIFEST_BYTES + 1))
    except KeyError as error:
        raise ValueError(f"{path}: a zip file without {MANIFEST}: not a heatward bundle") from error
    except Exception as error:  # zipfile may raise anything over a damaged file
        if getattr(error, "filename", None):  # the file cannot be opened; else a place in it that cannot be
            raise
        raise ValueError(f"{path}: neither a folder nor a readable zip file ({error})") from error


def _bounded(path: Path, data: bytes) -> bytes:
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data

"""`heatward inspect`: a bundle's path or URL, or a server's address goes in, what it holds comes out as text or JSON.

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
from typing import IO, Any

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
GRPC = r"(?!(?:dns|unix(?:-abstract)?|ipv[46]|vsock|xds|grpcs?):|https?://[^/]*/?$)"
URL = re.compile(GRPC + r"[a-z][a-z0-9+.-]+://.+")
"""Of a bundle, and not the address of a server."""
SECRETS = re.compile(r"(?<=://)[^/@\s]*@|[?#]\S*")
"""What stands in a URL before a host, or after a path, may be a password."""
ADDRESS = re.compile(r"(?:[a-z0-9+.-]+:.*[^:]|.*:\d+)", re.IGNORECASE)


def inspect(argv: list[str]) -> int:
    parser = Parser(
        prog=NAME,
        description="Shows what a bundle or a running server holds. Of a bundle, only the manifest is read.",
    )
    parser.add_argument(
        "target", metavar="BUNDLE | HOST:PORT", help="a bundle (folder or .heatward file, or a file's URL) or a server"
    )
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
        manifest = _parsed(target, _manifest_bytes(Path(target)))
        return json_text(manifest, indent=2) if arguments.json else bundle_lines(target, manifest, open_console())
    if URL.fullmatch(target):
        shown = SECRETS.sub("", target)
        manifest = _parsed(shown, _manifest_at(target, shown))
        return json_text(manifest, indent=2) if arguments.json else bundle_lines(shown, manifest, open_console())
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


def _parsed(place: str, text: bytes) -> dict[str, Any]:
    """The manifest as it was written, unverified: `heatward serve` verifies a bundle when it loads it."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {MANIFEST} is not JSON ({error}): the bundle is damaged") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{place}: {MANIFEST} does not say format = {FORMAT!r}: not a heatward bundle")
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
        return _member(path, path)
    except KeyError as error:
        raise ValueError(f"{path}: a zip file without {MANIFEST}: not a heatward bundle") from error
    except Exception as error:  # zipfile may raise anything over a damaged file
        if getattr(error, "filename", None):  # the file cannot be opened; else a place in it that cannot be
            raise
        raise ValueError(f"{path}: neither a folder nor a readable zip file ({error})") from error


def _manifest_at(url: str, shown: str) -> bytes:
    """Of a bundle in a store: the driver fetches the parts of the zip that hold it."""
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{shown}: URLs need fsspec: pip install 'heatward[remote]'") from error
    try:
        with fsspec.open(url, "rb") as stored:
            return _member(shown, stored)
    except ImportError as error:
        raise ValueError(f"{shown}: no driver is installed: {error}") from error
    except FileNotFoundError as error:
        raise ValueError(f"{shown}: there is no such object or bucket (404)") from error
    except Exception as error:  # a driver's own, or zipfile's
        said = SECRETS.sub("", f"{type(error).__name__}: {error}".replace(url, shown)).splitlines()[0]
        raise ValueError(f"{shown}: cannot be read: {said}") from error


def _member(place: str | Path, file: Path | IO[bytes]) -> bytes:
    with zipfile.ZipFile(file) as archive, archive.open(MANIFEST) as opened:
        return _bounded(place, opened.read(MAX_MANIFEST_BYTES + 1))


def _bounded(path: str | Path, data: bytes) -> bytes:
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data

"""`heatward inspect`: a bundle's path or URL, or a server's address goes in, what it holds comes out as text or JSON.

Of a bundle, a directory or a `.heatward` zip, it reads `manifest.json` and `signature.json`, with bounds on their size:
no weights, no code. Whose key signed it is told as it is written there; `heatward verify` tells whether that is so.
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
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
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
        description="Shows what a bundle or a running server holds. Of a bundle, manifest and signature are read.",
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
        return _bundle(target, _files_of(Path(target)), arguments)
    if URL.fullmatch(target):
        shown = SECRETS.sub("", target)
        return _bundle(shown, _files_at(target, shown), arguments)
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


def _bundle(place: str, files: tuple[bytes, bytes | None], arguments: argparse.Namespace) -> str:
    manifest, signature = _parsed(place, files[0]), _signature(files[1])
    if arguments.json:
        return json_text(manifest if signature is None else {**manifest, "signature": signature}, indent=2)
    return bundle_lines(place, manifest, open_console(), signature)


def _signature(text: bytes | None) -> dict[str, Any] | None:
    """What it says, unverified; nothing of it where it cannot be read; None where there is none."""
    if text is None:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _parsed(place: str, text: bytes) -> dict[str, Any]:
    """The manifest as it was written, unverified: `heatward serve` verifies a bundle when it loads it."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {MANIFEST} is not JSON ({error}): the bundle is damaged") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{place}: {MANIFEST} does not say format = {FORMAT!r}: not a heatward bundle")
    return manifest


def _files_of(path: Path) -> tuple[bytes, bytes | None]:
    if path.is_dir():
        file = path / MANIFEST
        if not file.is_file():
            raise ValueError(f"{path}: a folder without {MANIFEST}: not a heatward bundle")
        with file.open("rb") as opened:
            manifest = _bounded(path, opened, MANIFEST)
        if not (path / SIGNATURE).is_file():
            return manifest, None
        with (path / SIGNATURE).open("rb") as opened:
            return manifest, _bounded(path, opened, SIGNATURE)
    if not path.is_file():  # a pipe or a device may have no end
        raise ValueError(f"{path}: neither a folder nor a regular file")
    try:
        return _members(path, path)
    except KeyError as error:
        raise ValueError(f"{path}: a zip file without {MANIFEST}: not a heatward bundle") from error
    except Exception as error:  # zipfile may raise anything over a damaged file
        if getattr(error, "filename", None):  # the file cannot be opened; else a place in it that cannot be
            raise
        raise ValueError(f"{path}: neither a folder nor a readable zip file ({error})") from error


def _files_at(url: str, shown: str) -> tuple[bytes, bytes | None]:
    """Of a bundle in a store: the driver fetches the parts of the zip that hold it."""
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{shown}: URLs need fsspec: pip install 'heatward[remote]'") from error
    try:
        with fsspec.open(url, "rb") as stored:
            return _members(shown, stored)
    except ImportError as error:
        raise ValueError(f"{shown}: no driver is installed: {error}") from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise ValueError(f"{shown}: cannot be read: {SECRETS.sub('', str(error.__cause__))}") from error
        raise ValueError(f"{shown}: there is no such object or bucket (404)") from error
    except Exception as error:  # a driver's own, or zipfile's
        said = SECRETS.sub("", f"{type(error).__name__}: {error}".replace(url, shown)).splitlines()[0]
        raise ValueError(f"{shown}: cannot be read: {said}") from error


def _members(place: str | Path, file: Path | IO[bytes]) -> tuple[bytes, bytes | None]:
    with zipfile.ZipFile(file) as archive:
        with archive.open(MANIFEST) as opened:
            manifest = _bounded(place, opened, MANIFEST)
        if SIGNATURE not in archive.namelist():
            return manifest, None
        with archive.open(SIGNATURE) as opened:
            return manifest, _bounded(place, opened, SIGNATURE)


def _bounded(place: str | Path, opened: IO[bytes], name: str) -> bytes:
    data = opened.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{place}: {name} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data

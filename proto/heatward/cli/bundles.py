"""Looks at a bundle without loading it: a path goes in, its manifest comes out.

Reads `manifest.json` only, of a directory or a `.heatward` zip, with a bound on its size; no weights, no code.
"""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

__all__ = ["NotABundleError", "read_manifest"]

MANIFEST = "manifest.json"
FORMAT = "heatward-bundle"
MAX_MANIFEST_BYTES = 16 * 2**20
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError, EOFError)
"""What reading a damaged zip file may raise."""


class NotABundleError(Exception):
    """The path holds no manifest of ours; the message says what it holds instead."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest as it was written, unverified: `heatward serve` verifies a bundle when it loads it."""
    try:
        manifest = json.loads(_manifest_bytes(path))
    except (ValueError, RecursionError) as error:
        raise NotABundleError(f"{path}: {MANIFEST} is not JSON ({error}): the bundle is damaged") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NotABundleError(f"{path}: {MANIFEST} does not say format = {FORMAT!r}: not a heatward bundle")
    return manifest


def _manifest_bytes(path: Path) -> bytes:
    if path.is_dir():
        file = path / MANIFEST
        if not file.is_file():
            raise NotABundleError(f"{path}: a folder without {MANIFEST}: not a heatward bundle")
        with file.open("rb") as opened:
            return _bounded(path, opened.read(MAX_MANIFEST_BYTES + 1))
    if not path.is_file():  # a pipe or a device may have no end
        raise NotABundleError(f"{path}: neither a folder nor a regular file")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MANIFEST) as opened:
            return _bounded(path, opened.read(MAX_MANIFEST_BYTES + 1))
    except KeyError as error:
        raise NotABundleError(f"{path}: a zip file without {MANIFEST}: not a heatward bundle") from error
    except (*DAMAGE, OSError) as error:
        if getattr(error, "filename", None):  # the file cannot be opened; else a place in it that cannot be
            raise
        raise NotABundleError(f"{path}: neither a folder nor a readable zip file ({error})") from error


def _bounded(path: Path, data: bytes) -> bytes:
    if len(data) > MAX_MANIFEST_BYTES:
        raise NotABundleError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data

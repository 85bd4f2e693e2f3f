"""A path that the settings name → **the bundle there that should serve**, and a stamp that changes with its files."""

from __future__ import annotations

import re
from pathlib import Path

from detector import remote
from detector.bundle.archive import MANIFEST, ZIP_SUFFIX
from detector.errors import ConfigError

__all__ = ["Stamp", "newest", "stamp"]

Stamp = tuple[tuple[str, int, int, int], ...]


def newest(path: Path) -> Path:
    """The bundle at `path`: itself or, in a folder of bundles, the last by name, numbers in their order (v9, v10).

    Hidden names are passed over: copies not yet complete (`.v10.heatward.Xy12`), `._v10.heatward`, `..data`,
    `.snapshot`; and folders that are closed to us, like `lost+found`.

    Raises:
        ConfigError: The folder holds none.
        OSError: It cannot be read.
    """
    if remote.is_url(path) or not path.is_dir() or (path / MANIFEST).exists():
        return path
    bundles = [each for each in path.iterdir() if not each.name.startswith(".") and _is_bundle(each)]
    if not bundles:
        raise ConfigError(f"{path} holds no bundle: put a {ZIP_SUFFIX} file there (no hidden one), or name one")
    return max(bundles, key=_order)


def stamp(path: Path) -> Stamp:
    """What changes when a bundle's files do: names, sizes, times, inodes; empty where there is none.

    Raises:
        StoreError: The store of a URL does not say.
        ConfigError: There is no driver for such URLs.
    """
    if remote.is_url(path):
        version, size = remote.stamp(path)
        return ((version, size, 0, 0),)
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(each.name, each.stat()) for each in files]
    except OSError:
        return ()
    return tuple((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in found)


def _is_bundle(path: Path) -> bool:
    try:
        return path.suffix == ZIP_SUFFIX or (path / MANIFEST).exists()
    except PermissionError:
        return False


def _order(path: Path) -> list[tuple[int, str]]:
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

"""Files → **a stamp that changes when they do**."""

from __future__ import annotations

from pathlib import Path

from detector import remote
from detector.bundle.folder import POINTER, newest

__all__ = ["Stamp", "newest", "stamp", "stamp_of_newest"]

Stamp = tuple[tuple[str, int, int, int], ...]


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


def stamp_of_newest(path: Path) -> Stamp:
    """That of the bundle at `path` which should serve, and of the pointer that names it.

    Raises:
        HeatwardError: There is none.
        OSError: The folder cannot be read.
    """
    if remote.is_url(path):  # of a pointer, its own: bundles in a store have names of their own
        return stamp(path)
    return stamp(newest(path, verify=False)) + stamp(path / POINTER)

"""Files → **a stamp that changes when they do**."""

from __future__ import annotations

from pathlib import Path

from detector.bundle.folder import POINTER, newest

__all__ = ["Stamp", "newest", "stamp", "stamp_of_newest"]

Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(path: Path) -> Stamp:
    """What changes when a bundle's files do: names, sizes, times, inodes; empty where there is none."""
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
    return stamp(newest(path, verify=False)) + stamp(path / POINTER)

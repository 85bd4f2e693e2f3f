"""Bytes → **a file, whole or not at all**: written beside it under another name, flushed to disk, then renamed."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["TEMPORARY", "is_temporary", "replacing", "temporary_name", "write_file"]

TEMPORARY = ".tmp"
"""How the name ends that a file or folder has while it is written; it begins with a dot."""

RIGHTS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
"""What of a file's mode another keeps: not the bits by which a program runs as its owner."""

OURS = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", re.DOTALL)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nobody else uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` gave it: nobody else's file is ours to remove."""
    return OURS.fullmatch(name) is not None


@contextmanager
def replacing(path: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """A stream whose content is at `path` when the context ends; where that fails, what was there stays.

    Args:
        path: Where. Who could read the file that was there can read the new one.
        like: Where there was none: a file whose readers are to read this one.

    Raises:
        OSError: The file cannot be written; it is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("xb") as stream:
            _open_like(path if like is None or path.exists() else like, stream)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """So that the new name outlives a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_like(file: Path, stream: BinaryIO) -> None:
    """Gives what is written the owner, group and mode of a file, as far as we may; nothing where there is none."""
    try:
        before = file.stat()
    except OSError:
        return
    written, mode = stream.fileno(), before.st_mode & RIGHTS
    with suppress(OSError):
        os.fchown(written, -1, before.st_gid)
    if os.fstat(written).st_gid != before.st_gid:  # not everybody may: our own group gets what others have
        mode = mode & ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    with suppress(OSError):
        os.fchmod(written, mode)
    with suppress(OSError):  # last: the mode of another's file is not ours to set
        os.fchown(written, before.st_uid, -1)


def write_file(path: Path, content: bytes, like: Path | None = None) -> None:
    """Writes a file so that whoever looks at `path` sees the old content or the new one, never a part (`replacing`)."""
    with replacing(path, like) as stream:
        stream.write(content)

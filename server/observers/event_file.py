"""Events → **lines of a file**, which another program may rotate, and which form a chain where that is asked for.

A chained event names its number (`metadata.sequence`) and the sha256 of the line before (`unmapped.chain.previous`, the
line's bytes without its end; 64 zeros for the first). So no line can be changed, left out or put in without the ones
behind it telling. `FILE.head` keeps the number and digest of the last one: the chain goes on after a restart though the
file was rotated, and lines that were cut off at the end are missed. `heatward events verify` checks it.

Who can write both files can write a new chain: it proves something to whoever has a later line or digest elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.files import replacing

__all__ = ["EventFile"]

FIRST = "0" * 64
LONGEST_LINE = 2**20
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
MODE = 0o600


class EventFile:
    """Appends events; one process does.

    Args:
        path: Is made, but no folder is.
        chained: Whether each event names the one before.
    """

    def __init__(self, path: Path, *, chained: bool) -> None:
        self._path, self._chained = path, chained
        self._head_path = path.with_name(f"{path.name}.head")
        self._file: int | None = None
        self._head: tuple[int, str] | None = None

    def make(self) -> None:
        """Makes the file, where there is none.

        Raises:
            OSError: It could not be written.
            ConfigError: It is no regular file.
        """
        os.close(_regular(os.open(self._path, FLAGS, MODE), self._path))

    def append(self, events: Sequence[dict[str, Any]]) -> None:
        """Writes them; they are on the disk when this returns.

        Raises:
            OSError: They cannot be written: nothing of them was. `BlockingIOError` where another process writes there.
            ConfigError: What is there are no events.
        """
        file = self._open()
        number, digest = self._last(file) if self._chained else (0, "")
        lines = []
        for event in events:
            if self._chained:
                number += 1
                event["metadata"]["sequence"] = number
                event["unmapped"]["chain"] = {"previous": digest}
            line = json.dumps(event, separators=(",", ":")).encode()  # ASCII: no line holds a line break
            digest = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        if not self._chained:
            self._write(file, lines)
            return
        with replacing(self._head_path) as head:  # first, so that there is room for both or nothing is written
            head.write(json.dumps({"sequence": number, "sha256": digest}).encode())
            head.flush()
            self._write(file, lines)
            self._head = number, digest

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, file: int, lines: Sequence[bytes]) -> None:
        size = os.fstat(file).st_size
        try:
            _write_all(file, b"".join(lines))
            os.fsync(file)
        except OSError as error:
            os.ftruncate(file, size)  # no half of a line stays
            error.filename = error.filename or str(self._path)  # a full disk names no file
            raise

    def _open(self) -> int:
        """The file of that name, which may be another one than before."""
        if self._file is not None and not _is_at(self._file, self._path):
            self.close()
        if self._file is None:
            file = _regular(os.open(self._path, FLAGS, MODE), self._path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(file, _whole(file, self._path))
            except BaseException:
                os.close(file)
                raise
            self._file = file
        return self._file

    def _last(self, file: int) -> tuple[int, str]:
        """Number and digest of the last event: as was noted, unless a crash left later ones in the file."""
        if self._head is None:
            there, kept = _of_last_line(file), self._kept()
            self._head = there if there[0] > kept[0] else kept  # the same number: a line that was changed stays told
        return self._head

    def _kept(self) -> tuple[int, str]:
        try:
            kept = json.loads(self._head_path.read_bytes())
            return int(kept["sequence"]), str(kept["sha256"])
        except FileNotFoundError:
            return 0, FIRST
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"events_chain: {self._head_path} does not say where the chain ends ({error}): put back the file, or "
                "remove it to go on from the last line"
            ) from error


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _regular(file: int, path: Path) -> int:
    """The open file, if lines can be kept in it: a pipe or /dev/stdout keeps none."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ConfigError(
            f"events: {path} is no regular file, in which lines stay: name one, and have a program follow it"
        )
    return file


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has this name: a rotated one does not."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file), there)


def _tail(file: int) -> tuple[int, bytes]:
    """Where the end of the file begins, and it."""
    size = os.fstat(file).st_size
    start = max(0, size - LONGEST_LINE)
    return start, os.pread(file, size - start, start)


def _whole(file: int, path: Path) -> int:
    """The size without what a crash left half written of a line."""
    start, tail = _tail(file)
    end = tail.rfind(b"\n") + 1
    half = tail[end:].lstrip(b"\0")  # a power cut may leave zeros in place of what was written
    if half and (not half.startswith(b"{") or (start and not end)):
        raise ConfigError(f"events: {path} is no file of events: its last line has no end. Name another file")
    return start + end


def _of_last_line(file: int) -> tuple[int, str]:
    _, tail = _tail(file)
    lines = tail.splitlines()
    try:
        return int(json.loads(lines[-1])["metadata"]["sequence"]), hashlib.sha256(lines[-1]).hexdigest()
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):  # nothing, or not chained
        return 0, FIRST

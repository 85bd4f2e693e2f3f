"""Image files → bytes for a stream, read as they are needed; a file that cannot be sent becomes a `Failure` instead.

A file's kind and size are looked at before its bytes, and never more is read than the server takes: a disk image of
50 GB, `/dev/zero` and a pipe without end cost nothing.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from heatward.cli.congestion import CongestionWindow
from heatward.cli.files import STANDARD_INPUT, ImageFile
from heatward.client.values import Failure, Limits

__all__ = ["Reader", "largest_image"]

AROUND_AN_IMAGE = 256
"""Bytes of a message that are not its image's: options, id, lengths."""
UNKNOWN_LIMIT = 64 * 2**20


def largest_image(limits: Limits) -> int:
    """The largest file in bytes that the server takes, by itself or as part of a message."""
    bounds = (limits.max_image_bytes, limits.max_message_bytes - AROUND_AN_IMAGE)
    return min((bound for bound in bounds if bound > 0), default=UNKNOWN_LIMIT)


@dataclass
class Reader:
    """Feeds a stream from files.

    Attributes:
        files: What to read, in this order.
        limit: The largest file to send, in bytes.
        window: Says when, and what once more.
        piped: What standard input held.
        sent: Which of `files` is the n-th image of the stream.
        unreadable: (position in `files`, failure), to be collected by the caller.
    """

    files: list[ImageFile]
    limit: int
    window: CongestionWindow
    piped: bytes = b""
    sent: list[int] = field(default_factory=list)
    unreadable: deque[tuple[int, Failure]] = field(default_factory=deque)

    def __iter__(self) -> Iterator[bytes]:
        for position in self.window:
            data = self._read(self.files[position])
            if isinstance(data, Failure):
                self.unreadable.append((position, data))
                self.window.settle(position, data)
            else:
                self.sent.append(position)
                yield data

    def _read(self, file: ImageFile) -> bytes | Failure:
        try:
            if file.trouble is not None:
                raise file.trouble
            if file == STANDARD_INPUT:
                return self._bounded(self.piped)
            state = file.path.stat()
            if not stat.S_ISREG(state.st_mode):
                return Failure("INVALID_ARGUMENT", "is no regular file: to send what a pipe holds, name -")
            if state.st_size > self.limit:
                return self._too_large()
            with file.path.open("rb") as opened:
                return self._bounded(opened.read(self.limit + 1))  # it may have grown
        except OSError as error:
            code = "PERMISSION_DENIED" if isinstance(error, PermissionError) else "NOT_FOUND"
            return Failure(code, f"cannot be read: {error.strerror}")

    def _bounded(self, data: bytes) -> bytes | Failure:
        return data if len(data) <= self.limit else self._too_large()

    def _too_large(self) -> Failure:
        return Failure(
            "INVALID_ARGUMENT", f"the file is larger than the server takes, {self.limit} bytes: send a smaller image"
        )

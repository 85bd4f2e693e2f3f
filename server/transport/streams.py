"""*Messages of a stream* → **the same, until its client ends it or, once the server drains, until it pauses**.

What a client had sent when the drain began is still read, and answered; it may fill the stream's window. Then, or
once nothing has come for a moment, or half of the grace is over, the stream is at its end: `cut`, if its client has not
ended it before.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from server.errors import NotReadyError
from server.transport.channel import WINDOW_BYTES

__all__ = ["Messages", "Streams"]

T = TypeVar("T")

PAUSE_S = 0.1


class Messages(Generic[T]):
    """Of one stream; read by one task.

    Args:
        messages: As they come.
        busy: Whether any of them waits for its answer.
        size: Of a message, in bytes.
    """

    def __init__(self, messages: AsyncIterable[T], busy: Callable[[], bool], size: Callable[[T], int]) -> None:
        self._messages, self._busy, self._size = messages, busy, size
        self._iterator: AsyncIterator[T] | None = None  # gRPC's is a generator: begun only where it is read
        self._waiting: asyncio.Task[object] | None = None
        self._until_s = self._left = math.inf
        self._read = 0
        self._timer: asyncio.TimerHandle | None = None
        self.cut = False
        """Whether it was ended here."""
        self.busy = False
        """Whether its client was at work when the drain began, or after it."""

    def __aiter__(self) -> Messages[T]:
        return self

    async def __anext__(self) -> T:
        if self._left < 0 or time.monotonic() > self._until_s:
            self.cut = True
            raise StopAsyncIteration
        self._iterator = self._iterator or aiter(self._messages)
        self._waiting = asyncio.current_task()
        try:
            message = await anext(self._iterator)
        except asyncio.CancelledError:
            if self.cut and self._waiting is not None:
                self._waiting.uncancel()
                raise StopAsyncIteration from None
            raise
        finally:
            self._waiting = None
        self._read += 1
        if self._timer is not None:
            self.busy = True
            self._left -= self._size(message)
        return message

    def drain(self, until_s: float) -> None:
        """Reads what is on its way, until then at the latest."""
        self.busy = self._busy()
        self._until_s, self._left = until_s, WINDOW_BYTES
        self._look_again()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._look, self._read)

    def _look(self, read: int) -> None:
        if self._waiting is not None and (read == self._read or time.monotonic() > self._until_s):
            self.cut = True
            self._waiting.cancel()
        else:
            self._look_again()


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self._open: set[Messages[Any]] = set()
        self._until_s: float | None = None
        self.cut = 0
        """How many were ended whose clients were at work."""

    @contextmanager
    def reading(
        self, messages: AsyncIterable[T], busy: Callable[[], bool], size: Callable[[T], int]
    ) -> Iterator[Messages[T]]:
        """`messages`, to be read, and answered, while the context lasts.

        Raises:
            NotReadyError: They were ended here; at the end of the context, so that what was read is answered.
        """
        reader = Messages(messages, busy, size)
        self._open.add(reader)
        if self._until_s is not None:
            reader.drain(self._until_s)
        try:
            yield reader
        finally:
            self._open.discard(reader)
            reader.close()
            self.cut += reader.cut and reader.busy
        if reader.cut:
            raise NotReadyError("the server is draining: send what has no answer yet to another server")

    def drain(self, until_s: float) -> None:
        """Brings all to their end, those to come included."""
        self._until_s = until_s
        for reader in list(self._open):
            reader.drain(until_s)

"""When each image is sent: refusals for want of room go in, positions of images come out, those refused once more.

A folder holds more images than a server has places, and a slow server is late with all that wait there. So there are at
most as many images ahead of their answers as it takes: a refusal halves that number, verdicts let it grow again, as in
TCP's congestion avoidance (RFC 5681). An image is sent again for as long as the server gives verdicts to any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from heatward.client.values import Failure, Verdict

__all__ = ["CongestionWindow"]


class CongestionWindow:
    """Hands out positions on one thread, and is told of answers on another.

    Args:
        count: How many images there are.
        most: Images ahead of their answers.
        patience_s: So long after the last verdict a refusal is final.
        clock: Seconds that only ever grow.
    """

    def __init__(self, count: int, most: int, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh = iter(range(count))
        self._refused: deque[int] = deque()
        self._most, self._size = most, float(most)
        self._open = 0
        self._patience_s, self._clock = patience_s, clock
        self._verdict_s = clock()
        self._pause_until_s = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        """Waits until there is room, and at the end until all are answered."""
        while (position := self._next()) is not None:
            yield position

    def settle(self, position: int, answer: Verdict | Failure) -> bool:
        """Told what became of an image; whether that is final. False: it is sent again."""
        with self._changed:
            self._changed.notify()
            self._open -= 1
            if isinstance(answer, Verdict):
                self._verdict_s = self._clock()
                self._size = min(self._most, self._size + 1 / self._size)
            elif _lacks_room(answer) and self._clock() < self._verdict_s + self._patience_s:
                self._size = max(1.0, self._open // 2)
                self._pause_until_s = self._clock() + (answer.retry_after_s or 0.0)
                self._refused.append(position)
                return False
            return True

    def close(self) -> None:
        """Nothing more is sent."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _next(self) -> int | None:
        with self._changed:
            while not self._closed:
                pause_s = self._pause_until_s - self._clock()
                if self._open and self._open >= int(self._size):
                    self._changed.wait()
                elif self._refused and not self._open and pause_s > 0:  # others fill the server, or a quota is used up
                    self._changed.wait(pause_s)
                else:
                    position = self._refused.popleft() if self._refused else next(self._fresh, None)
                    if position is not None:
                        self._open += 1
                        return position
                    if not self._open:
                        return None
                    self._changed.wait()
            return None


def _lacks_room(failure: Failure) -> bool:
    late = failure.code == "DEADLINE_EXCEEDED"
    return late or (failure.code == "RESOURCE_EXHAUSTED" and failure.retry_after_s is not None)

"""Whose turn it is: *works with priority, client and deadline* → **which goes next, and how many go before another**.

Order: priority, then clients in turn (one that was served goes to the end), then the soonest deadline. So a client that
floods the queue waits in a line of its own, and another's image waits for no more of the flood than it has itself.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator

from server.inference.request import HIGH, LOW, NORMAL, InferenceRequest

__all__ = ["FairQueue"]


class FairQueue:
    """Works in their order, and the places that clients hold, for works that are still to come too. Not thread-safe."""

    def __init__(self) -> None:
        # By priority: clients in turn, each with its works sorted.
        self._lines: dict[int, dict[str, list[InferenceRequest]]] = {HIGH: {}, NORMAL: {}, LOW: {}}
        self._places: Counter[tuple[int, str]] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[InferenceRequest]:
        """A work of each client, in the order of their turns, then the clients' second works, …, by priority."""
        for lines in self._lines.values():
            for rank in range(max(map(len, lines.values()), default=0)):
                for line in list(lines.values()):
                    if rank < len(line):
                        yield line[rank]

    def reserve(self, work: InferenceRequest) -> None:
        """Counts a place for work that is to come."""
        self._places[work.priority, work.client] += 1

    def release(self, work: InferenceRequest) -> None:
        """Gives its place back."""
        key = work.priority, work.client
        self._places[key] -= 1
        if not self._places[key]:
            del self._places[key]

    def add(self, work: InferenceRequest) -> None:
        insort(self._lines[work.priority].setdefault(work.client, []), work, key=_turn)
        self._count += 1

    def remove(self, work: InferenceRequest, *, served: bool = False) -> bool:
        """Whether it was there; a client that was `served` goes to the end."""
        lines = self._lines[work.priority]
        line = lines.get(work.client, [])
        place = bisect_left(line, work.turn, key=_turn)
        if place == len(line) or line[place] is not work:
            return False
        del line[place]
        self._count -= 1
        if served or not line:
            del lines[work.client]
        if served and line:
            lines[work.client] = line
        return True

    def ahead(self, work: InferenceRequest) -> int:
        """How many images would go before this one, which is to come."""
        line = self._lines[work.priority].get(work.client, [])
        to_come = self._places[work.priority, work.client] - len(line)
        own = bisect_left(line, work.turn, key=_turn) + max(to_come, 0)
        others = (
            places if priority > work.priority else min(places, own + 1)
            for (priority, client), places in self._places.items()
            if priority > work.priority or (priority == work.priority and client != work.client)
        )
        return own + sum(others)

    def displaced_by(self, work: InferenceRequest) -> InferenceRequest | None:
        """Who gives up its place for this one: the last in the longest line, if that is longer than the newcomer's."""
        if not self._places:
            return None
        (priority, client), places = max(self._places.items(), key=lambda item: (-item[0][0], item[1]))
        line = self._lines[priority].get(client, [])
        own = self._places[work.priority, work.client]
        fair = priority < work.priority or (priority == work.priority and places > own + 1)
        return line[-1] if line and fair else None


def _turn(work: InferenceRequest) -> tuple[float, int]:
    return work.turn

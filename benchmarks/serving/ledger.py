"""What was asked and what came back: *ids and codes* → **what was lost, doubled or wrong**.

Each image has an id of its own, the codes that it may be answered with and, where one knows it, its label. A call that
ends with a status has answered all its images that had no answer yet; a call that ends well must have answered each,
exactly once, with its own label.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc
from google.rpc import code_pb2
from heatward.v1 import detection_pb2 as pb

__all__ = ["Answer", "Ledger", "NoMessage", "item"]

Answer = tuple[str, str, int]  # request id, code, label
LOST = "LOST"
HANG_S = 15.0
"""A call open so long after its deadline hangs: the server may be stopped for 2 s, and the machine is shared."""
RENAMED = {
    "the detector was exchanged during the call: send it again": "EXCHANGED",
    # grpc.aio's own, where a stream's client writes to a call that is over and has not read its status yet
    "Internal error from Core": "OVER",
}


class NoMessage(Exception):
    """A call ended well, with nothing.

    Args:
        late: Its deadline had passed: then gRPC drops a message that has arrived, but not the status OK behind it
            (https://github.com/grpc/grpc/issues/23559). Our client makes DEADLINE_EXCEEDED of that.
    """

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late


@dataclass(frozen=True, slots=True)
class Asked:
    """An image that waits for its answer."""

    kind: str
    allowed: frozenset[str]
    label: int | None


class Ledger:
    """Watches the answers; `violations` counts what should not have been, in words."""

    def __init__(self) -> None:
        self.codes: Counter[tuple[str, str]] = Counter()  # images, by kind of call and code
        self.violations: Counter[str] = Counter()
        self.asked = 0
        self.doubled = 0
        self.wrong = 0
        self.calls = 0
        """Open ones."""
        self._waiting: dict[str, Asked] = {}
        self._numbers = itertools.count()

    @property
    def lost(self) -> int:
        """Images without an answer, so far."""
        return len(self._waiting) + self.by_code[LOST]

    @property
    def by_code(self) -> Counter[str]:
        """Images by code alone."""
        found: Counter[str] = Counter()
        for (_, code), count in self.codes.items():
            found[code] += count
        return found

    def new_id(self) -> str:
        return str(next(self._numbers))

    def expect(
        self, kind: str, allowed: frozenset[str], *, label: int | None = None, request_id: str | None = None
    ) -> str:
        """Waits for one answer with one of these codes; returns its id, a new one unless it is given."""
        request_id = self.new_id() if request_id is None else request_id
        self._waiting[request_id] = Asked(kind, allowed, label)
        self.asked += 1
        return request_id

    def note(self, request_id: str, code: str, label: int | None = None) -> None:
        """An answer came."""
        asked = self._waiting.pop(request_id, None)
        if asked is None:
            self.doubled += 1
            self.violations[f"{request_id!r} was answered with {code}, but had its answer or was never asked"] += 1
            return
        self.codes[asked.kind, code] += 1
        if code not in asked.allowed:
            self.wrong += 1
            self.violations[f"{asked.kind}: an image got {code}"] += 1
        elif code == "OK" and asked.label is not None and label != asked.label:
            self.wrong += 1
            self.violations[f"{asked.kind}: label {label} in place of {asked.label}"] += 1

    async def follow(
        self,
        kind: str,
        expected: Mapping[str, int | None],
        answers: AsyncIterator[Answer],
        allowed: frozenset[str],
        limit_s: float,
    ) -> None:
        """Reads a call to its end; `expected` holds a label for each id."""
        for request_id, label in expected.items():
            self.expect(kind, allowed, label=label, request_id=request_id)
        ended = "OK"
        self.calls += 1
        try:
            async with asyncio.timeout(limit_s + HANG_S):
                async for answer in answers:
                    self.note(*answer)
        except grpc.aio.AioRpcError as error:
            ended = RENAMED.get(error.details() or "", error.code().name)
            if ended not in allowed:
                self.violations[f"{kind}: {ended}: {error.details()}"[:300]] += 1
        except NoMessage as nothing:
            ended = "DEADLINE_EXCEEDED" if nothing.late else "NO MESSAGE"  # the latter is allowed nowhere
        except asyncio.CancelledError:  # only calls are cancelled here, never the tasks that wait for them
            # Not by us: grpc.aio cancels a stream that is over before all its requests are written.
            ended = "CANCELLED" if "CANCELLED" in allowed else "OVER"
        except TimeoutError:
            ended = "HANGS"
        finally:
            self.calls -= 1
        for request_id in expected.keys() & self._waiting.keys():
            self.note(request_id, LOST if ended == "OK" else ended)


def item(result: pb.DetectResult) -> Answer:
    """The answer to one image of a batch or a stream."""
    if result.HasField("status"):
        return result.request_id, code_pb2.Code.Name(result.status.code), -1
    return result.request_id, "OK", result.verdict.predicted.index

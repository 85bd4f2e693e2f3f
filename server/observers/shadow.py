"""The shadow: *requests that were answered* → **the same, judged again by the bundle on trial, and compared**.

It has no effect on the answers: it judges after them, with low priority, and where too much waits it judges less.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from heatward.v1 import detection_pb2 as pb

from detector.errors import HeatwardError
from server.observers.metrics import Metrics

__all__ = ["Shadow"]

log = logging.getLogger("heatward.shadow")

SIMILAR = 0.05  # of p-values


class Shadow:
    """Compares a shadow's verdicts with those that were answered.

    Args:
        metrics: What is counted.
        most: Images that it may be busy with at once; others are not compared.
    """

    def __init__(self, metrics: Metrics, most: int = 16) -> None:
        self._metrics = metrics
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    def compare(self, answered: pb.Verdict, judge: Callable[[], Awaitable[pb.Verdict]]) -> None:
        """Has the same image judged, soon, unless too many wait already."""
        if len(self._tasks) >= self._most:
            self._metrics.shadowed(["skipped"])
            return
        task = asyncio.ensure_future(self._compare(answered, judge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _compare(self, answered: pb.Verdict, judge: Callable[[], Awaitable[pb.Verdict]]) -> None:
        try:
            verdict = await judge()
        except HeatwardError as error:
            self._metrics.shadowed(["refused" if error.code == "RESOURCE_EXHAUSTED" else "failed"])
            return
        except Exception as error:
            log.error("the shadow failed", exc_info=error)
            self._metrics.shadowed(["failed"])
            return
        self._metrics.shadowed(differences(answered, verdict) or ["same"])


def differences(one: pb.Verdict, other: pb.Verdict) -> list[str]:
    """In what two verdicts on the same image differ."""
    found = {
        "verdict": one.attacked != other.attacked,
        "p_value": abs(one.p_value - other.p_value) > SIMILAR,
        "label": one.predicted.name != other.predicted.name,
        "recovered": bool(one.attacked and other.attacked)
        and [label.name for label in one.recovered[:1]] != [label.name for label in other.recovered[:1]],
    }
    return [name for name, differs in found.items() if differs]

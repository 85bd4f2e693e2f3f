"""The local runner: shard plans in, one shard after another out, made by one worker in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from training.runners.plans import ShardMade, ShardPlan
from training.runners.worker import Worker

__all__ = ["LocalRunner"]


class LocalRunner:
    """Has one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def run(self, plans: Iterable[ShardPlan]) -> Iterator[ShardMade]:
        """Make every shard, in order."""
        return map(self.worker.make, plans)

    def close(self) -> None:
        """Nothing is held."""

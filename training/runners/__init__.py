"""Runners map shard plans to shards: plans (plain data) in, files in the work folder and what is to say of them out.

    ShardPlan ─▶ Runner ─▶ Worker, which holds the classifier ─▶ a shard with the plan's digest ─▶ ShardMade

The local runner has one worker in this process. The Ray runner has workers on a cluster: it reads what a shard is made
from, sends it, and writes the bytes that come back, so that nobody else sees images or work folder. A shard does not
depend on the worker that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from training.runners.plans import ShardMade, ShardPlan, ShardStage

__all__ = ["Runner", "ShardMade", "ShardPlan", "ShardStage"]


class Runner(Protocol):
    """Anything that has shards made."""

    def run(self, plans: Iterable[ShardPlan]) -> Iterator[ShardMade]:
        """Make every shard, whose own sources are finished; in any order."""

    def close(self) -> None:
        """Let go of workers, until the next run."""

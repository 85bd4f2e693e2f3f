"""A shard to make and a shard made, as plain data: both can be pickled and sent to another process or machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from torch import Tensor

from training.config import Split
from training.data.sources import Item
from training.shards import digest_of

__all__ = ["ShardMade", "ShardPlan", "ShardStage"]

ShardStage = Literal["attack", "attribute"]


@dataclass(frozen=True)
class ShardPlan:
    """One shard: some sources of a split under one label."""

    stage: ShardStage
    split: Split
    label: str
    path: Path
    digest: str
    """What the shard must carry: of everything that decides its bytes."""
    rows: int
    """Source images."""
    seed: int
    """Decides everything random in it."""
    made_from: tuple[Item, ...] | Path
    """Images, for a clean shard and for one of collected images; or the shard whose first `rows` rows it is made
    from."""
    originals: tuple[Item | None, ...] | None = None
    """Of collected images, what each was made from, where that is known; None of other shards."""

    natives: tuple[Item, ...] = ()
    """The photographs of these rows, where they are changed at their own size."""

    @property
    def finished(self) -> bool:
        """Whether the shard is there and is the one that is meant."""
        return digest_of(self.path) == self.digest


@dataclass(frozen=True)
class ShardMade:
    """What is to say of a shard that was just written."""

    plan: ShardPlan
    rows: int
    changed: int
    """Rows whose prediction is not the one on the clean image."""
    skipped: tuple[str, ...] = ()
    """Names of images that could not be read."""

    @classmethod
    def of(cls, plan: ShardPlan, tensors: Mapping[str, Tensor], skipped: tuple[str, ...] = ()) -> Self:
        """What is to say of these tensors."""
        changed = int((tensors["prediction"] != tensors["origin"]).sum())
        return cls(plan, len(tensors["origin"]), changed, skipped)

"""Attack shards and a detector that looks at images in; its answers (`Scored`) out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.evaluation.scores import ROWS_AT_ONCE, Answers, Scored, table_of
from training.shards import read_shard

__all__ = ["from_images"]


def from_images(
    paths: Sequence[Path],
    answer: Callable[[Tensor], Answers],
    *,
    successes_only: bool,
    limit: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Scored:
    """Score attack shards with a detector that looks at images.

    Args:
        paths: attack shards of one label.
        answer: function of (n, 3, H, W) uint8 images.
        successes_only: leave out images whose prediction did not change (for attacks).
        limit: at most so many images.
        advance: told of every shard done.
    """
    rows: list[dict[str, Tensor]] = []
    said: list[Answers] = []
    left = limit
    for path in paths:
        if left is None or left > 0:
            shard = read_shard(path)
            changed = shard["prediction"] != shard["origin"]
            chosen = changed.nonzero()[:, 0] if successes_only else torch.arange(len(changed))
            chosen = chosen[:left]
            left = None if left is None else left - len(chosen)
            for part in torch.split(chosen, ROWS_AT_ONCE) if len(chosen) else ():
                rows.append({name: shard[name][part] for name in ("index", "truth", "origin", "prediction")})
                said.append(answer(shard["images"][part]))
        advance(1)
    return table_of(rows, said)

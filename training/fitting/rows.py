"""What a fit learns from: attribution shards of the split `fit` in, weighted and mixed batches out.

Every image weighs so that clean images (with their noise twins) and attack families count alike, however many there
are of each. Shards are read a buffer at a time and mixed inside it: memory does not grow with the data.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detector.errors import DataError
from detector.evidence import Evidence
from training.config import CLEAN, TrainingConfig
from training.settings import FitSettings
from training.shards import list_shards, read_shard, rows_of

__all__ = ["EvidenceFilter", "RowFilter", "Rows", "ShardReader"]

EvidenceFilter = Callable[[Evidence], Evidence]
RowFilter = Callable[[Tensor], Tensor]
"""Source images (n,) → which of them are learnt from."""


@dataclass(frozen=True)
class Rows:
    """What one step learns from."""

    evidence: Evidence
    family: Tensor  # (B,) index into config.families
    origin: Tensor  # (B,) class index
    weight: Tensor  # (B,)


class ShardReader:
    """Attribution shards of the fit split as weighted, mixed batches."""

    def __init__(
        self,
        config: TrainingConfig,
        work: Path,
        settings: FitSettings,
        keep: EvidenceFilter = lambda evidence: evidence,
        learns: RowFilter | None = None,
    ) -> None:
        self.settings = settings
        self.keep = keep
        self.learns = learns
        self.family: dict[Path, int] = {}
        self.label: dict[Path, str] = {}
        counts: dict[str, int] = {}
        for label in config.labels("fit"):
            for path in list_shards(work, "attribute", "fit", label):
                self.family[path] = config.families.index(config.family_of(label))
                self.label[path] = label
                counts[label] = counts.get(label, 0) + rows_of(path)
        self.rows = sum(counts.values())
        present = {label: count for label, count in counts.items() if count}
        families = {config.family_of(label) for label in present}
        wanted = {CLEAN} | {config.family_of(attack.label) for attack in config.attacks_of("fit")}
        if CLEAN not in families or (len(wanted) > 1 and len(families) == 1):
            found = ", ".join(f"{label} {count}" for label, count in counts.items())
            raise DataError(f"fit: nothing to tell apart, rows of each label: {found}; run `heatward train attack`")
        # one share a family; inside a family one share a label
        self.weight = {}
        for label, count in present.items():
            family = config.family_of(label)
            share = settings.clean_share if family == CLEAN else (1 - settings.clean_share) / (len(families) - 1)
            siblings = sum(config.family_of(other) == family for other in present)
            self.weight[label] = share / siblings / count * self.rows

    @property
    def steps(self) -> int:
        """Upper bound of the batches in an epoch."""
        groups = -(-len(self.family) // self.settings.buffer_shards)
        return self.rows // self.settings.batch_size + groups

    def epoch(self, generator: random.Random) -> Iterator[Rows]:
        """All rows once, in an order drawn from `generator`."""
        paths = list(self.family)
        generator.shuffle(paths)
        for start in range(0, len(paths), self.settings.buffer_shards):
            rows = self._load(paths[start : start + self.settings.buffer_shards])
            if rows is None:
                continue
            order = torch.tensor(generator.sample(range(len(rows.evidence)), len(rows.evidence)))
            for index in torch.split(order, self.settings.batch_size):
                yield Rows(rows.evidence[index], rows.family[index], rows.origin[index], rows.weight[index])

    def sample(self, shards_a_label: int = 4, only: Sequence[str] | None = None) -> Evidence:
        """A few shards of every label, or of some labels, for statistics."""
        seen: dict[str, int] = {}
        chosen = []
        for path, label in self.label.items():
            if only is not None and label not in only:
                continue
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= shards_a_label:
                chosen.append(path)
        rows = self._load(chosen)
        if rows is None:
            raise DataError("fit: every attribution shard is empty; run `heatward train attribute`")
        return rows.evidence.float()

    def _load(self, paths: list[Path]) -> Rows | None:
        evidence, family, origin, weight = [], [], [], []
        for path in paths:
            tensors = read_shard(path)
            if self.learns is not None:
                learnt = self.learns(tensors["index"])
                tensors = {name: tensor[learnt] for name, tensor in tensors.items()}
            count = len(tensors["origin"])
            if not count:
                continue
            evidence.append(self.keep(Evidence.from_tensors(tensors)))
            family.append(torch.full((count,), self.family[path]))
            origin.append(tensors["origin"])
            weight.append(torch.full((count,), self.weight[self.label[path]]))
        if not evidence:
            return None
        return Rows(Evidence.cat(evidence), torch.cat(family), torch.cat(origin), torch.cat(weight))

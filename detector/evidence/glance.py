"""A first look at B images, with few views or none: what a cascade decides by, and what goes on to the other views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detector.evidence.groups import VIEWS, Evidence, join_views
from detector.heatmaps.channels import LayerAttribution

__all__ = ["Glance"]


@dataclass(frozen=True)
class Glance:
    """What a forward pass, the margin's backward, the witness and some views say of B images, in their order."""

    images: Tensor  # (B, 3, H, W)
    evidence: Evidence  # with the groups of these views alone
    depths: Mapping[str, LayerAttribution]  # by layer, which views are compared with; empty of a black box
    heatmaps: Tensor  # (B, h, w), what people are shown
    views: tuple[int, ...] = ()  # places of those that were taken, ascending

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> Glance:
        """Some of the images."""
        depths = {name: _joined([depth], lambda each: each[0][rows]) for name, depth in self.depths.items()}
        return Glance(self.images[rows], self.evidence[rows], depths, self.heatmaps[rows], self.views)

    def joined(self, views: Sequence[int], seen: Mapping[str, Tensor]) -> Glance:
        """With more views, whose groups these are; and with other groups in place of its own."""
        every, own = (*self.views, *views), self.evidence.tensors()
        joined = {
            name: join_views(name, (own[name], group), every) if self.views and name.startswith(VIEWS) else group
            for name, group in seen.items()
        }
        evidence = Evidence.from_tensors({**own, **joined})
        return replace(self, evidence=evidence, views=tuple(sorted(every)))

    def split(self, size: int) -> list[Glance]:
        """Parts of at most so many images; one of none where there are none."""
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]

    @classmethod
    def cat(cls, parts: Sequence[Glance]) -> Glance:
        return cls(
            torch.cat([part.images for part in parts]),
            Evidence.cat([part.evidence for part in parts]),
            {name: _joined([part.depths[name] for part in parts], torch.cat) for name in parts[0].depths},
            torch.cat([part.heatmaps for part in parts]),
            parts[0].views,
        )


def _joined(depths: Sequence[LayerAttribution], join: Callable[[list[Tensor]], Tensor]) -> LayerAttribution:
    return LayerAttribution(**{name: join([vars(depth)[name] for depth in depths]) for name in vars(depths[0])})

"""A first look at B images, without any view: what a cascade decides by, and what the second look goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.evidence.groups import Evidence
from detector.heatmaps.channels import LayerAttribution

__all__ = ["Glance"]


@dataclass(frozen=True)
class Glance:
    """What one forward pass, the margin's backward and the witness say of B images, in their order."""

    images: Tensor  # (B, 3, H, W)
    evidence: Evidence  # without the groups of views
    depths: Mapping[str, LayerAttribution]  # by layer, which views are compared with; empty of a black box
    heatmaps: Tensor  # (B, h, w), what people are shown

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> Glance:
        """Some of the images."""
        depths = {name: _joined([depth], lambda each: each[0][rows]) for name, depth in self.depths.items()}
        return Glance(self.images[rows], self.evidence[rows], depths, self.heatmaps[rows])

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
        )


def _joined(depths: Sequence[LayerAttribution], join: Callable[[list[Tensor]], Tensor]) -> LayerAttribution:
    return LayerAttribution(**{name: join([vars(depth)[name] for depth in depths]) for name in vars(depths[0])})

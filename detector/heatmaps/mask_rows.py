"""Images, classes and areas laid out as rows, so that masks are learned side by side, a bounded number at once.

images (B, 3, H, W), classes (B, C), A areas ─▶ B·C·A rows, `chunk` at a time ─▶ optimise ─▶ `MaskHeatmap`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import HeatmapError
from detector.heatmaps.gradient import input_gradients
from detector.heatmaps.heatmap import Heatmap, check_at_least, gradients_of, resolve_classes
from detector.heatmaps.reference import MaskReference, levels, seen

__all__ = ["MaskHeatmap", "Scene", "check_share", "over_rows"]


@dataclass(frozen=True)
class MaskHeatmap(Heatmap):
    """Learned masks. `maps` is their mean over the areas; 1 marks evidence for the class, in deletion masks too."""

    masks: Tensor
    """(B, C, A, H, W) in [0,1]."""
    kept: Tensor
    """(B, C, A): the class's logit with only the mask kept."""
    deleted: Tensor
    """(B, C, A): the class's logit with the mask taken away."""
    steps: Tensor
    """(B, C, A): steps taken."""


@dataclass(frozen=True)
class Scene:
    """Rows that are worked on at once."""

    classifier: Classifier
    ladder: Tensor  # (n, L, 3, H, W): `levels`
    labels: Tensor  # (n,)

    def logits(self, masks: Tensor, rows: Tensor, *, keep: bool, move: Sequence[int] = (0, 0)) -> Tensor:
        """(m, K) with the masks (m, H, W) of these rows kept, or taken away, and the picture moved."""
        ladder = self.ladder if len(rows) == len(self.ladder) else self.ladder[rows]
        pictures = seen(ladder, masks if keep else 1 - masks)
        return self.classifier(pictures.roll(tuple(move), (2, 3)) if any(move) else pictures)

    def logit(self, masks: Tensor, rows: Tensor | None = None, *, keep: bool) -> Tensor:
        """(m,): each row's own class among `logits`; of every row where `rows` is None."""
        rows = torch.arange(len(self.labels), device=masks.device) if rows is None else rows
        return self.logits(masks, rows, keep=keep).gather(1, self.labels[rows, None])[:, 0]


def over_rows(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None,
    areas: list[float],
    reference: MaskReference,
    seed: int,
    chunk: int,
    begin: Callable[[Tensor], Tensor],
    optimise: Callable[[Scene, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> MaskHeatmap:
    """Lay images, classes and areas out as rows, optimise them `chunk` at a time, and judge the masks."""
    check_at_least("chunk", chunk, 1)
    with gradients_of(classifier):
        ladder = levels(images, reference, seed=seed)
        logits, gradients = input_gradients(classifier, images, classes)
        labels = resolve_classes(classes, logits)  # (B, C)
        shape = (*labels.shape, len(areas))
        saliency = (gradients * (images - ladder[:, 0])[:, None]).sum(2)  # (B, C, H, W)
        image_of = torch.arange(len(images), device=images.device)[:, None, None].expand(shape).flatten()
        label_of, areas_of = (
            labels[:, :, None].expand(shape).flatten(),
            images.new_tensor(areas).expand(shape).flatten(),
        )
        saliency_of = saliency.flatten(0, 1).repeat_interleave(len(areas), 0)
        parts = []
        for rows in torch.split(torch.arange(len(image_of), device=images.device), chunk):
            scene = Scene(classifier, ladder[image_of[rows]], label_of[rows])
            masks, taken = optimise(scene, begin(saliency_of[rows]), areas_of[rows])
            with torch.no_grad():
                parts.append((masks, scene.logit(masks, keep=True), scene.logit(masks, keep=False), taken))
        masks, kept, deleted, taken = (torch.cat(part) for part in zip(*parts, strict=True))
        masks = masks.view(*shape, *images.shape[2:])
        return MaskHeatmap(logits, masks.mean(2), masks, kept.view(shape), deleted.view(shape), taken.view(shape))


def check_share(setting: str, value: float) -> None:
    """Raises HeatmapError, naming the setting, unless `value` is in (0, 1)."""
    if not 0 < value < 1:
        raise HeatmapError(f"{setting}: expected a share in (0, 1), e.g. 0.1 for a tenth, got {value!r}")

"""Block occlusion: how much each class's logit falls when a block of the image is covered.

Images and classes flow in, one (grid, grid) map per class comes out; grid² forwards an image serve all classes at
once, and no gradient is needed. Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2014),
section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.classifier.black_box import BlackBox
from detector.heatmaps.heatmap import Heatmap, check_at_least, received, resolve_classes
from detector.heatmaps.reference import Reference, cover

__all__ = ["occlusion"]


def occlusion(
    classifier: Classifier | BlackBox,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    grid: int = 8,
    fill: Reference = "mean",
    chunk: int = 256,
) -> Heatmap:
    """Logit of the image less logit with the block covered; maps (B, C, grid, grid), positive where it helps.

    Args:
        classifier: The classifier under guard; black boxes too.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the predicted class.
        grid: Blocks a side, 1 … min(H, W); sides that do not divide give blocks that differ by one pixel.
        fill: What covers a block; see `cover`.
        chunk: Images a forward, at most (one block of the whole batch at least): bounds memory, changes no value.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
    """
    images = received(classifier, images)
    height, width = images.shape[2:]
    check_at_least("grid", grid, 1, min(height, width))
    check_at_least("chunk", chunk, 1)
    with torch.no_grad():
        hidden = cover(images, fill, setting="fill")
        blocks = _blocks(height, width, grid, images.device)
        logits = classifier(images)
        classes = resolve_classes(classes, logits)
        group = max(1, chunk // max(1, len(images)))  # blocks a forward
        covered_logits = []
        for start in range(0, len(blocks), group):
            some = blocks[start : start + group, None, None]  # (n, 1, 1, H, W)
            covered = torch.where(some, hidden, images).flatten(0, 1)  # (n * B, 3, H, W)
            covered_logits.append(classifier(covered).view(len(some), *logits.shape))
        drop = logits - torch.cat(covered_logits)  # (grid², B, K)
        maps = drop.permute(1, 2, 0).reshape(*logits.shape, grid, grid)  # (B, K, grid, grid)
        return Heatmap(logits, maps.gather(1, classes[:, :, None, None].expand(-1, -1, grid, grid)))


def _blocks(height: int, width: int, grid: int, device: torch.device) -> Tensor:
    """(grid², H, W) bool, row by row: True inside the block."""
    rows = torch.arange(height, device=device) * grid // height  # (H,): the row of blocks each pixel lies in
    columns = torch.arange(width, device=device) * grid // width
    of_pixel = rows[:, None] * grid + columns  # (H, W)
    return of_pixel == torch.arange(grid * grid, device=device)[:, None, None]

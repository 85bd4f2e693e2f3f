"""RISE: how probable a class is, on average, under the random masks that keep a pixel.

Images and classes flow in, one (H, W) map per class comes out; the same forwards serve all classes, and no gradient is
needed. Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018), section 3.
The quantity and the masks are the paper's; opposite pairs of masks and the estimator `_where_kept` need fewer of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, interpolate

from detector.classifier import Classifier
from detector.classifier.black_box import BlackBox
from detector.errors import HeatmapError
from detector.heatmaps.heatmap import Heatmap, check_at_least, received, resolve_classes
from detector.heatmaps.reference import Reference, cover

__all__ = ["rise"]

RIDGE = 30  # samples worth of belief in slopes of 0; measured on real images, 10 to 100 are as good


def rise(
    classifier: Classifier | BlackBox,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    samples: int = 512,
    cells: int = 7,
    keep: float = 0.5,
    reference: Reference = "mean",
    chunk: int = 256,
    seed: int = 0,
) -> Heatmap:
    """Mean probability of the class over masks that keep the pixel; maps (B, C, H, W), in [0, 1] but for chance.

    Read a map's contrast: its level is about the mean probability over all masks. Every image meets the same masks,
    drawn on the CPU, so a map depends on nothing but its image and the settings. Noise falls as 1 / √samples: on 16
    CIFAR-10 test images the correlation with the limit was 0.96 at 256 masks, 0.98 at 512, 0.99 at 1,024; the paper's
    estimator needed about 4,000 for the first.

    Args:
        classifier: The classifier under guard; black boxes too.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the class predicted on the image itself.
        samples: Masks, each one forward an image.
        cells: Cells a side of a mask before it is enlarged, 2 … min(H, W).
        keep: Probability that a cell is kept, in (0, 1).
        reference: What shows where a mask hides (the paper: grey level 0); see `cover`.
        chunk: Images a forward, at most (one mask on the whole batch at least): bounds memory, changes no value. That
            many masked images and enlarged masks exist at a time, beside `samples` numbers a map and cells² a pixel.
        seed: Of the masks.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
    """
    images = received(classifier, images)
    height, width = images.shape[2:]
    check_at_least("samples", samples, 1)
    check_at_least("cells", cells, 2, min(height, width))
    check_at_least("chunk", chunk, 1)
    if not 0 < keep < 1:
        raise HeatmapError(f"keep: expected a probability in (0, 1), got {keep!r}")
    with torch.no_grad():
        hidden = cover(images, reference, seed=seed).expand_as(images)
        logits = classifier(images)
        classes = resolve_classes(classes, logits)
        masks = _Masks.draw(samples, cells, keep, (height, width), seed, images.device)
        group = max(1, chunk // max(1, len(images)))  # masks a forward
        scores, pooled = [], []
        for some in masks.enlarged(group):  # (n, H, W)
            masked = torch.lerp(hidden, images, some[:, None, None]).flatten(0, 1)  # (n * B, 3, H, W)
            probabilities = classifier(masked).softmax(1).view(len(some), *logits.shape)
            scores.append(probabilities.gather(2, classes.expand(len(some), -1, -1)).flatten(1))  # (n, B * C)
            pooled.append(adaptive_avg_pool2d(some, cells).flatten(1))  # (n, cells²)
        maps = _where_kept(torch.cat(scores), torch.cat(pooled) - keep, masks, group)
        return Heatmap(logits, maps.view(*classes.shape, height, width))


@dataclass(frozen=True)
class _Masks:
    """The masks of one call, a few numbers each until they are enlarged."""

    kept: Tensor  # (N, cells, cells) of 0 and 1
    shifts: Tensor  # (N, 2) pixels, less than a cell
    windows: tuple[Tensor, Tensor]  # (shifts, cells, H) and (shifts, cells, W): bilinear weights of the cells
    keep: float

    @classmethod
    def draw(
        cls, samples: int, cells: int, keep: float, size: tuple[int, int], seed: int, device: torch.device
    ) -> _Masks:
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the same masks on every device
        windows = _windows(size[0], cells), _windows(size[1], cells)
        pairs = (samples + 1) // 2
        chance = torch.rand(pairs, cells, cells, generator=generator)
        kept = torch.stack([chance < keep, chance >= 1 - keep], 1).flatten(0, 1)  # opposites follow each other
        shifts = torch.stack([torch.randint(len(some), (pairs,), generator=generator) for some in windows], 1)
        return cls(
            kept[:samples].float().to(device),
            shifts.repeat_interleave(2, 0)[:samples].to(device),
            (windows[0].to(device), windows[1].to(device)),
            keep,
        )

    def enlarged(self, group: int) -> Iterator[Tensor]:
        """Masks (n, H, W) in [0, 1], at most `group` at a time."""
        for start in range(0, len(self.kept), group):
            some = slice(start, start + group)
            rows, columns = (window[shift] for window, shift in zip(self.windows, self.shifts[some].T, strict=True))
            yield torch.einsum("niy,nij,njx->nyx", rows, self.kept[some], columns)


def _windows(length: int, cells: int) -> Tensor:
    """(shifts, cells, length): what each cell weighs in each pixel when the enlarged mask is cut out at a shift."""
    side = -(-length // cells)  # pixels a cell, rounded up
    weights = interpolate(torch.eye(cells)[None], size=(cells + 1) * side, mode="linear", align_corners=False)[0]
    return weights.unfold(1, length, 1)[:, :side].transpose(0, 1)


def _where_kept(scores: Tensor, pooled: Tensor, masks: _Masks, group: int) -> Tensor:
    """E[score | pixel kept], (S, H * W), from scores (N, S) under the masks and their cells (N, cells²) less `keep`.

    A linear model of the pooled mask is fitted to the scores. Its mean where a pixel is kept is known exactly, so only
    its residual is averaged over the samples: the regression estimator of survey sampling (Cochran, "Sampling
    Techniques" (1977), chapter 7).
    """
    cells, spread = masks.kept.shape[1], masks.keep * (1 - masks.keep)
    kernels = [torch.einsum("sip,siq->pq", some, some) / len(some) for some in masks.windows]  # (H, H), (W, W)
    by_pixel = [adaptive_avg_pool1d(kernel, cells).T for kernel in kernels]  # (cells, H), (cells, W)
    by_cell = [adaptive_avg_pool1d(some, cells).diagonal() for some in by_pixel]  # (cells,) each
    covariance = spread * torch.einsum("iy,jx->ijyx", *by_pixel).flatten(2).flatten(0, 1)  # (cells², H * W)
    variance = spread * torch.outer(*by_cell).flatten()  # (cells²,)
    mean = scores.mean(0)
    normal = pooled.T @ pooled + torch.diag(RIDGE * variance)
    slopes = torch.linalg.solve(normal, pooled.T @ (scores - mean))  # (cells², S)
    residual = scores - mean - pooled @ slopes  # (N, S)
    maps: Tensor = mean[:, None] + slopes.T @ covariance / masks.keep
    for some, rest in zip(masks.enlarged(group), torch.split(residual, group), strict=True):
        maps.addmm_(rest.T, some.flatten(1), alpha=1 / (len(scores) * masks.keep))
    return maps

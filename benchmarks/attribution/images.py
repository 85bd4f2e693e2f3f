"""The photographs that heatmaps are measured on: a classifier and splits in, images that it gets right out.

With them comes what is the same for every method: the images blurred, and the logit of the class through random smooth
masks. Here, too, are the maps that look at nothing, to compare with: random ones, and a blob at the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from benchmarks.attribution import metrics as metrics
from detector.classifier import Classifier
from detector.errors import DataError
from training.config import Split
from training.data import SplitImages
from training.progress import Progress

__all__ = [
    "AREA",
    "RANDOM_MASKS",
    "SMOOTHNESS",
    "Photographs",
    "centre_maps",
    "in_turns",
    "mask_maps",
    "photograph",
    "random_maps",
    "read",
]

AREA = 0.1
RANDOM_MASKS = 8
SMOOTHNESS = 8  # the σ of the blur and of random masks is this part of the image's side


@dataclass(frozen=True)
class Photographs:
    """Rightly classified images, and what is the same for every method."""

    pixels: Tensor  # (N, 3, H, W) in [0, 1]
    index: Tensor  # (N,) their ids, on the CPU
    classes: Tensor  # (N,) what they show and are taken for
    blurred: Tensor  # (N, 3, H, W)
    random_logit: Tensor  # (N,) of the class, through random masks: the mean

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, some: slice | Tensor) -> Photographs:
        return Photographs(*(getattr(self, each.name)[some] for each in fields(self)))

    def mirrored(self) -> Photographs:
        """Pixels left for right; the rest as it is."""
        return replace(self, pixels=self.pixels.flip(3))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]


def read(
    classifier: Classifier, splits: Mapping[Split, SplitImages], limit: int, batch: int, progress: Progress
) -> Photographs:
    """`limit` images that the classifier gets right, drawn from the test images; their classes take turns.

    Where all splits share one source they are drawn from all of it: a heatmap learns nothing from an image, and a test
    split of few images may hold a part of the classes only.

    Raises:
        DataError: It gets none right.
    """
    shared = splits["fit"].items[0].source == splits["test"].items[0].source
    items = [item for name, split in splits.items() if shared or name == "test" for item in split.items]
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    split = replace(splits["test"], items=tuple(items[place] for place in order), _digests={})
    pixels, index, classes = [], [], []
    count = 0
    with progress.task("photographs", limit) as advance:
        for start in range(0, len(split), batch):
            images = split.read(start, min(start + batch, len(split)), classifier.prepare)
            unit = images.pixels.to(classifier.device).float() / 255
            with torch.no_grad():
                right = classifier(unit).argmax(1).cpu() == images.truth
            chosen = right.nonzero()[: limit - count, 0]
            pixels.append(unit[chosen.to(unit.device)])
            index.append(images.index[chosen])
            classes.append(images.truth[chosen].to(unit.device))
            advance(len(chosen))
            count += len(chosen)
            if count == limit:
                break
    if not count:
        raise DataError(f"the classifier gets none of {len(split)} images right: do config and bundle fit?")
    found = photograph(classifier, torch.cat(pixels), torch.cat(index), torch.cat(classes), batch)
    return found[in_turns(found.classes.cpu())]


def in_turns(classes: Tensor) -> Tensor:
    """(N,) positions that let classes (N,) take turns: one of each class there is, then the second of each, …"""
    same = classes[:, None] == classes
    return same.tril(-1).sum(1).argsort(stable=True)


def photograph(classifier: Classifier, pixels: Tensor, index: Tensor, classes: Tensor, chunk: int) -> Photographs:
    """Blur images and look at them through random masks of `AREA`."""
    blurred = metrics.blur(pixels, min(pixels.shape[2:]) / SMOOTHNESS)
    maps = _smooth(index, pixels)[:, :RANDOM_MASKS]
    masks = metrics.top_pixels(maps.flatten(0, 1), AREA).view_as(maps)
    answers = metrics.answers_through(classifier, pixels, blurred, masks, classes, chunk=chunk)
    return Photographs(pixels, index, classes, blurred, answers.logit.mean(1))


def mask_maps(photographs: Photographs) -> Tensor:
    """(B, RANDOM_MASKS, H, W): the smooth noise that random masks are made of."""
    return _smooth(photographs.index, photographs.pixels)[:, :RANDOM_MASKS]


def random_maps(photographs: Photographs) -> Tensor:
    """(B, H, W): smooth noise, drawn as that of the random masks is."""
    return _smooth(photographs.index, photographs.pixels)[:, RANDOM_MASKS]


def centre_maps(photographs: Photographs) -> Tensor:
    """(B, H, W): pixels near the centre first."""
    rows, columns = (torch.linspace(-1, 1, side).to(photographs.pixels) for side in photographs.size)
    return -(rows[:, None] ** 2 + columns**2).expand(len(photographs), -1, -1)


def _smooth(index: Tensor, like: Tensor) -> Tensor:
    """(B, RANDOM_MASKS + 1, H, W): of each image its own, whatever the batch."""
    size = (like.shape[2], like.shape[3])
    maps = [metrics.smooth_noise(RANDOM_MASKS + 1, size, min(size) / SMOOTHNESS, seed) for seed in index.tolist()]
    return torch.stack(maps).to(like)

"""A grid of photographs × heatmap methods: images and maps in, one picture out.

A signed map is red where it speaks for the class and blue where it speaks against it, any other glows; both over the
image in grey. A mask is the image seen through it. Every map has its own scale, up to its 99th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.attribution.metrics import resized
from forensics.drawing import Figure, colormaps

__all__ = ["draw"]

INCHES = 1.3  # a picture
PERCENTILE = 0.99


def draw(
    path: Path, images: Tensor, names: Sequence[str], maps: Mapping[str, Tensor], masks: frozenset[str] = frozenset()
) -> None:
    """Write the grid.

    Args:
        path: Of the picture; its name says the format.
        images: (n, 3, H, W) in [0, 1].
        names: (n,) what each shows.
        maps: By method, (n, h, w).
        masks: The methods whose maps are masks in [0, 1].
    """
    size = (images.shape[2], images.shape[3])
    columns = len(maps) + 1
    figure = Figure(figsize=(INCHES * columns, INCHES * len(images)), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_title("photograph", fontsize=8)
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        axes[row, 0].imshow(_pixels(image))
        axes[row, 0].set_ylabel(name, fontsize=7)
    for column, (method, of_images) in enumerate(maps.items(), start=1):
        axes[0, column].set_title(method.replace("_", "\n"), fontsize=8)
        for row, (image, each) in enumerate(zip(images, resized(of_images, size), strict=True)):
            seen = through(image, each) if method in masks else over_grey(image, each, bool((of_images < 0).any()))
            axes[row, column].imshow(_pixels(seen))
    figure.savefig(path, dpi=150)


def through(image: Tensor, mask: Tensor, ground: float = 0.85) -> Tensor:
    """(3, H, W): the image where the mask (H, W) is 1, light grey where it is 0."""
    mask = mask.clamp(0, 1)
    return image * mask + ground * (1 - mask)


def over_grey(image: Tensor, values: Tensor, signed: bool) -> Tensor:
    """(3, H, W): a map (H, W) laid over the image in grey, thicker where it is larger."""
    values = values if signed else values - values.min()
    strength = (values / values.abs().flatten().quantile(PERCENTILE).clamp(min=1e-12)).clamp(-1, 1)
    colours = colormaps["seismic" if signed else "inferno"]
    colour = torch.from_numpy(colours(((strength + 1) / 2 if signed else strength).numpy())[..., :3]).permute(2, 0, 1)
    grey = 0.3 + 0.6 * image.mean(0)
    opacity = 0.9 * strength.abs() ** 0.7
    return (grey * (1 - opacity) + colour * opacity).float()


def _pixels(image: Tensor) -> NDArray[np.float32]:
    return image.permute(1, 2, 0).clamp(0, 1).numpy()

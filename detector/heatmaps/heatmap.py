"""What every heatmap method shares: its value, the images and classes it is asked for, the door to gradients.

A method takes a classifier, images (B, 3, H, W) in [0,1] and classes (B, C); it returns a `Heatmap`. Nothing here
scales a map: magnitudes are evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, TypeAlias

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.classifier.black_box import BlackBox
from detector.errors import HeatmapError, LayerNotFoundError, NoGradientError
from detector.images.batch import check_images, check_range

__all__ = [
    "Heatmap",
    "Method",
    "as_leaf",
    "check_at_least",
    "default_layer",
    "gradients_of",
    "received",
    "resolve_classes",
]


@dataclass(frozen=True)
class Heatmap:
    """Class maps of a batch, signed or not as the method says, never rescaled."""

    logits: Tensor
    """(B, K), of the images as they are."""
    maps: Tensor
    """(B, C, h, w): one map per image and class asked for."""


Method: TypeAlias = Callable[Concatenate[Classifier, Tensor, Tensor | None, ...], Heatmap]
"""(classifier, images (B, 3, H, W), classes (B, C) or None for the predicted class, settings by keyword)."""


@contextmanager
def gradients_of(classifier: Classifier | BlackBox) -> Iterator[None]:
    """Gradients on, whatever mode the caller is in.

    Raises:
        NoGradientError: The classifier cannot be differentiated.
    """
    if not classifier.differentiable:
        raise NoGradientError(
            f"classifier {_name(classifier)!r} gives no gradients, which this heatmap needs "
            f"({classifier.no_gradient}); "
            "use 'occlusion' or 'rise'"
        )
    with torch.inference_mode(False), torch.enable_grad():
        yield


def received(classifier: Classifier | BlackBox, images: Tensor) -> Tensor:
    """The images of a caller, checked, and cut from the caller's graph.

    Raises:
        ImageShapeError: Not (B, 3, H, W) float32 in [0, 1], or elsewhere, or of a size that a black box does not take.
    """
    if isinstance(classifier, BlackBox):
        check_images(images, size=classifier.input_size)
    else:
        check_images(images, device=classifier.device)
    check_range(images)
    return as_leaf(images)


def as_leaf(images: Tensor) -> Tensor:
    """`images` cut from the caller's graph and usable in ours, values shared where possible."""
    with torch.inference_mode(False):
        return images.clone() if images.is_inference() else images.detach()


def resolve_classes(classes: Tensor | None, logits: Tensor) -> Tensor:
    """The classes asked for, (B, C) long on the logits' device; the predicted class, C = 1, when None.

    Raises:
        HeatmapError: Not integers of shape (B, C), or outside 0 … K-1.
    """
    if classes is None:
        return logits.detach().argmax(dim=1, keepdim=True)
    batch, count = logits.shape
    if not isinstance(classes, Tensor):
        raise HeatmapError(
            f"classes: expected a tensor of integers ({batch}, C), got a {type(classes).__name__}: use torch.tensor"
        )
    if classes.ndim != 2 or len(classes) != batch or classes.shape[1] < 1:
        mended = ": for a class each give classes[:, None]" if tuple(classes.shape) == (batch,) else ""
        raise HeatmapError(f"classes: expected shape ({batch}, C) with C >= 1, got {tuple(classes.shape)}{mended}")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise HeatmapError(f"classes: expected integers, got {classes.dtype}")
    if batch and not 0 <= int(classes.min()) <= int(classes.max()) < count:
        raise HeatmapError(
            f"classes: expected values in 0 … {count - 1}, got {int(classes.min())} … {int(classes.max())}"
        )
    return classes.to(logits.device, torch.long)


def check_at_least(setting: str, value: int, low: int, high: int | None = None) -> None:
    """Raises HeatmapError, naming setting and range, unless `value` is an integer in low … high."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        wanted = f"an integer >= {low}" if high is None else f"an integer in {low} … {high}"
        raise HeatmapError(f"{setting}: expected {wanted}, got {value!r}")


def default_layer(classifier: Classifier | BlackBox, layer: str | None) -> str:
    """`layer`, or the deepest one.

    Raises:
        LayerNotFoundError: None given and the classifier shows none.
    """
    if layer is not None:
        return layer
    if classifier.deepest is None:
        by_gradient = "'gradient', 'integrated_gradients', " if classifier.differentiable else ""
        raise LayerNotFoundError(
            f"classifier {_name(classifier)!r} shows no layers ({classifier.no_layers}); use a method that needs none: "
            f"{by_gradient}'occlusion', 'rise'"
        )
    return classifier.deepest


def _name(classifier: Classifier | BlackBox) -> str:
    return classifier.name if isinstance(classifier, BlackBox) else classifier.spec.source

"""The door of all that takes images from a user's hands: **images (B, 3, H, W), float32 in [0, 1]**, or an error.

What comes otherwise (one image without its batch, uint8 of 0 … 255, channels last, normalised values) would give
torch's own errors far from their cause, or maps of a wrong shape without a word. Each error says what came and how to
mend it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detector.errors import ImageShapeError

__all__ = ["check_images", "check_labels", "check_range"]

EXPECTED = "expected a batch (B, 3, H, W) of float32 in [0, 1]"
ROUNDING = 1e-4
"""By so much a resized or blended image may leave [0, 1]."""


def check_images(images: Any, *, device: torch.device | None = None, size: tuple[int, int] | None = None) -> None:
    """Looks at kind, shape and place, not at values: costs nothing.

    Args:
        images: What came.
        device: Where they must be.
        size: (height, width) that they must have.

    Raises:
        ImageShapeError: They are no such tensor.
    """
    if not isinstance(images, Tensor):
        raise ImageShapeError(f"images: {EXPECTED}, got a {type(images).__name__}: {_to_tensor(images)}")
    came = f"images: {EXPECTED}, got {tuple(images.shape)}"
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise ImageShapeError(came + _mend_rank(shape))
    if shape[1] != 3:
        raise ImageShapeError(came + _mend_channels(shape))
    if 0 in shape[2:]:
        raise ImageShapeError(f"{came}: an image without pixels")
    if images.dtype != torch.float32:
        mended = "images.float()" if images.is_floating_point() else "images.float() / 255"
        raise ImageShapeError(f"images: {EXPECTED}, got {images.dtype}: give {mended}")
    if images.layout != torch.strided:
        raise ImageShapeError(f"images: {EXPECTED}, got a tensor of layout {images.layout}: give images.to_dense()")
    if size is not None and shape[2:] != size:
        raise ImageShapeError(
            f"images: expected {size[0]}×{size[1]} pixels, the classifier's input_size, got {shape[2]}×{shape[3]}: "
            "resize them (classifier.prepare takes photographs of any size)"
        )
    if device is not None and (device.type != images.device.type or device.index not in (None, images.device.index)):
        raise ImageShapeError(
            f"images are on {images.device}, the classifier is on {device}: give images.to('{device}')"
        )
    if images.is_meta:
        raise ImageShapeError(f"images: {EXPECTED}, got a tensor without data, on the meta device")


def check_range(images: Tensor) -> None:
    """Looks at every value: once a call, where images come in.

    Raises:
        ImageShapeError: A value is NaN or outside [0, 1].
    """
    if not images.numel():
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return
    if not (low > -torch.inf and high < torch.inf):
        raise ImageShapeError("images: expected values in [0, 1], got NaN or infinity")
    if low < -ROUNDING:
        mended = "undo the normalisation, the classifier normalises by itself (or .clamp(0, 1) what was blended)"
    else:
        mended = "divide by 255" if high > 2 else "bring them there with .clamp(0, 1)"
    raise ImageShapeError(f"images: expected values in [0, 1], got {low:.3g} … {high:.3g}: {mended}")


def check_labels(labels: Any, count: int, classes: int) -> None:
    """Looks at labels that belong to images: one whole number for each, of a class.

    Raises:
        ImageShapeError: They are no such tensor.
    """
    expected = f"labels: expected one for each of {count} images, whole numbers of classes 0 … {classes - 1}"
    if not isinstance(labels, Tensor):
        raise ImageShapeError(f"{expected}, got a {type(labels).__name__}: give torch.tensor(labels)")
    if tuple(labels.shape) != (count,):
        raise ImageShapeError(f"{expected}, got a tensor of shape {tuple(labels.shape)}")
    if labels.dtype not in (torch.int64, torch.int32):
        raise ImageShapeError(f"{expected}, got {labels.dtype}: give labels.long()")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ImageShapeError(f"{expected}, got {int(labels.min())} … {int(labels.max())}")


def _to_tensor(images: Any) -> str:
    if type(images).__module__.partition(".")[0] == "PIL":
        return "for a PIL image give classifier.prepare(numpy.asarray(image.convert('RGB')))[None]"
    if isinstance(images, list | tuple):
        return "give torch.stack(images)"
    return "give a tensor, as torch.from_numpy(array) makes one of a numpy array"


def _mend_rank(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return (
            ": for one image give images[None]"
            if shape[0] == 3
            else ": for one image give images.permute(2, 0, 1)[None]"
        )
    return ": for one grey image give images.expand(1, 3, -1, -1)" if len(shape) == 2 else ""


def _mend_channels(shape: tuple[int, ...]) -> str:
    if shape[3] == 3:
        return ": channels come second, give images.permute(0, 3, 1, 2)"
    if shape[1] == 1:
        return ": for grey images give images.expand(-1, 3, -1, -1)"
    return ": drop the alpha channel, give images[:, :3]" if shape[1] == 4 else ": channels are red, green and blue"

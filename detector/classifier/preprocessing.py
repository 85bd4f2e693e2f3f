"""What lies between an upright photograph and the user's net: geometry (pixels → pixels) and normalising (inside).

Geometry is Pillow's antialiased resize, the same as torchvision's transforms on PIL images, and ends in 8 bits, so that
a prepared image can be stored, sent and attacked without loss. Normalising lives in `Normalized`, so that everything
outside the net sees RGB images in [0, 1] and logits (B, K).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from detector.classifier.heads import Head
from detector.settings import Preprocessing

__all__ = ["Normalized", "Preprocessing", "fit_to", "resized_to", "to_images"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601-7, section 2.5.1, as Pillow's convert("L")

_EXTREME = 16  # a resized image of more than this many times the input's area is never made


def fit_to(pixels: NDArray[np.uint8], size: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre crop (H, W, 3) to `size` (height, width); pixels that are already of that size are untouched.

    Of an image of extreme shape (1×50,000,000) only the part that survives the crop is resized, so it costs no memory;
    that may differ from the whole resize by Pillow's rounding between its two passes.
    """
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels)
    resampling = _RESAMPLING[preprocessing.interpolation]
    height, width = size
    tall, wide = resized_to(image.height, image.width, size, preprocessing.resize)
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    if tall * wide <= _EXTREME * height * width:
        whole = image.resize((wide, tall), resampling)
        return np.array(whole.crop((left, top, left + width, top + height)))
    row, column = image.height / tall, image.width / wide  # source pixels per resized pixel
    right, bottom = min((left + width) * column, image.width), min((top + height) * row, image.height)
    return np.array(image.resize((width, height), resampling, (left * column, top * row, right, bottom)))


def to_images(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [0, 1], on the same device, in memory still channels last."""
    return pixels.permute(0, 3, 1, 2) / 255


def resized_to(height: int, width: int, size: tuple[int, int], resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an image before it is cropped."""
    if resize is None:
        return size
    if isinstance(resize, tuple):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


class Normalized(nn.Module):
    """The user's net between its normalisation and its head: (B, 3, H, W) RGB in [0, 1] → logits (B, K).

    Always in eval mode. `head` is found when the net is probed; until then the net's answers pass as they are.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, net: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.net = net
        self.head = Head()
        self.bgr = preprocessing.channel_order == "BGR"
        self.grey = preprocessing.channel_order == "grey"
        channels = 1 if self.grey else 3
        self.register_buffer("mean", torch.tensor(preprocessing.mean[:channels]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std[:channels]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.answer(images))

    def normalised(self, images: Tensor) -> Tensor:
        """Images as the net takes them: its channels, normalised."""
        channels = images
        if self.bgr:
            channels = images.flip(1)
        elif self.grey:
            channels = (images * self.luma).sum(1, keepdim=True)
        return (channels - self.mean) / self.std

    def answer(self, images: Tensor) -> Any:
        """What the net itself answers."""
        x = self.normalised(images)
        if x.requires_grad:  # a channels_last net answers with channels_last gradients, which attacks cannot `.view()`
            x.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return self.net(x)

    def train(self, mode: bool = True) -> Normalized:
        """Stays in eval mode whatever is asked: a classifier under guard does not drift."""
        return self

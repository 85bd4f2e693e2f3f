"""Small pictures in ten class folders, in `train` and in `test`, as the CIFAR-10 examples read them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor


def write(place: Path, images: Tensor, count: int) -> None:
    """`count` of the images (N, 3, H, W) uint8 a class, beginning at the class's number."""
    for part in ("train", "test"):
        for kind in range(10):
            folder = place / part / str(kind)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(images[kind + number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")

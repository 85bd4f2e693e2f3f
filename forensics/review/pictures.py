"""A record → **two pictures as PNG files**: the image, and what the classifier looked at in it.

An image that was not recorded is never shown, nor made from anything else: its heatmap is drawn over grey.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from detector.errors import HeatwardError
from detector.heatmaps.overlay import enlarge, overlay, png
from detector.images import decode
from detector.records.schema import Record

__all__ = ["Judge", "draw_heatmap", "draw_image"]

Pixels = NDArray[np.uint8]
Judge = Callable[[Pixels], tuple[Pixels, NDArray[np.float32]]]
"""Pixels (H, W, 3) → the image as the classifier sees it, and its heatmap (g, g)."""
LONGEST_SIDE = 512
HEATMAP = "heatmap"


def draw_image(record: Record) -> bytes | None:
    """The image; None where there is none, or none that can be read."""
    pixels = _pixels(record)
    return None if pixels is None else png(enlarge(pixels))


def draw_heatmap(record: Record, judge: Judge | None) -> bytes | None:
    """The recorded heatmap, or one that is computed anew; None where neither is to be had."""
    pixels, values = _pixels(record), _recorded(record)
    if values is None and judge is not None and record.image is not None and pixels is not None:
        try:
            pixels, values = judge(decode(record.image))
        except HeatwardError:  # the classifier cannot judge it
            return None
    if values is None:
        return None
    return png(overlay(np.full((256, 256, 3), 160, np.uint8) if pixels is None else pixels, values))


def _pixels(record: Record) -> Pixels | None:
    """Small enough to look at."""
    if record.image is None:
        return None
    try:
        picture = Image.fromarray(decode(record.image))
    except HeatwardError:
        return None
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(picture)


def _recorded(record: Record) -> NDArray[np.float32] | None:
    """The heatmap for the predicted class, which lies beside the evidence."""
    try:
        values = load(record.evidence or b"")[HEATMAP]
    except (SafetensorError, KeyError):
        return None
    return values.astype(np.float32) if values.ndim == 2 and values.size else None

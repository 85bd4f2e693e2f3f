"""An image and a heatmap → **one picture**: the image in grey under the map's colours, readable by the colour-blind.

What is drawn anywhere is drawn here: by the server, by `heatward explain`, by the report and by the demo. Each map has
its own scale, so that a picture shows where, not how much. A map with a value for each pixel is repeated without blur;
a coarser one is interpolated (bicubic), and so is that of a large image, which has more values than there is room for.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Kind", "enlarge", "is_photographic", "legend_stops", "overlay", "overlay_png", "png", "through"]

Map = NDArray[np.float32]
Picture = NDArray[np.uint8]
Kind = Literal["signed", "size", "mask"]
"""Speaks for and against the class; only how much; the chosen part, between 0 and 1."""

# From −1 to 1: RdBu of ColorBrewer. From 0 to 1: yellow to dark red.
SIGNED = np.array([[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]], np.float32)
SIZE = np.array([[255, 240, 168], [255, 190, 61], [244, 119, 42], [212, 33, 61], [139, 10, 80]], np.float32)
SMALLEST_SIDE = 256
MOST_CELLS = 75  # a side
OUTSIDE = np.array([198, 205, 216], np.float32)  # what a mask hides: neither as light as snow nor dark
COVER, EASE = 0.9, 0.85  # how much the strongest value covers, and how cover grows with strength
OUTLIERS = 99.0  # percentile of a map with a value a pixel; single pixels would else set its scale


def enlarge(image: Picture) -> Picture:
    """By the whole factor that brings its longer side to 256 pixels or just below; larger images stay as they are."""
    zoom = _zoom(image)
    return image.repeat(zoom, 0).repeat(zoom, 1)


def is_photographic(image: Picture) -> bool:
    """Large enough to stay as it is: its pictures have no blocks, whose edges a lossy format would blur."""
    return _zoom(image) == 1


def overlay(image: Picture, values: Map, kind: Kind = "signed", *, enlarged: bool = True) -> Picture:
    """The image in grey under a map's colours: the stronger the value, the more it covers.

    Args:
        image: (H, W, 3).
        values: (h, w), any scale; NaN and infinity count as zero.
        kind: How to read the values.
        enlarged: Whether a small image grows, as `enlarge` does.
    """
    base = enlarge(image) if enlarged else image
    grey = np.asarray(Image.fromarray(base).convert("L"), np.float32)[..., None]
    grey = 90 + grey * (165 / 255)  # lighter, so that colours carry
    fine = values.shape == image.shape[:2]
    scaled = _fit(_scaled(_pooled(values) if fine else values, kind, fine=fine), image.shape[:2], base.shape[:2])
    return _blend(grey, scaled, kind).round().clip(0, 255).astype(np.uint8)


def overlay_png(image: Picture, heatmap: Map) -> bytes:
    """A signed heatmap (g, g) over an image (H, W, 3): a PNG of H × W."""
    return png(overlay(image, heatmap, enlarged=False))


def png(picture: Picture) -> bytes:
    """Pixels (H, W, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def through(image: Picture, mask: Map) -> Picture:
    """The image (H, W, 3) where the mask (h, w) is 1, paper where it is 0."""
    base = enlarge(image)
    share = _fit(mask.clip(0, 1), image.shape[:2], base.shape[:2])[..., None]
    mixed: Picture = (base * share + OUTSIDE * (1 - share)).round().astype(np.uint8)
    return mixed


def legend_stops(kind: Kind, count: int = 9) -> list[str]:
    """Colours (#rrggbb) from the lowest value to the highest, as they look over grey."""
    strength = np.linspace(-1 if kind == "signed" else 0, 1, count, dtype=np.float32)
    mixed = _blend(np.full((count, 1), 190, np.float32), strength, kind).round().astype(int)
    return ["#" + "".join(f"{part:02x}" for part in colour) for colour in mixed.tolist()]


def _blend(grey: Map, scaled: Map, kind: Kind) -> Map:
    """Grey (…, 1) under the colours of values (…) in [-1, 1] or [0, 1]: (…, 3) in [0, 255]."""
    stops, position = (SIGNED, (scaled + 1) / 2) if kind == "signed" else (SIZE, scaled)
    grid = np.linspace(0, 1, len(stops))
    colours = np.stack([np.interp(position, grid, stops[:, part]) for part in range(3)], axis=-1)
    cover = COVER * np.abs(scaled[..., None]) ** EASE
    return (grey * (1 - cover) + colours * cover).astype(np.float32)


def _zoom(image: Picture) -> int:
    side: int = max(image.shape[:2])
    return max(1, SMALLEST_SIDE // side)


def _pooled(values: Map) -> Map:
    """Means over blocks, so that no more values than a picture has room for are shown; small maps stay as they are."""
    block = max(1, round(max(values.shape) / MOST_CELLS))
    height, width = (side // block * block for side in values.shape)
    blocks = values[:height, :width].reshape(height // block, block, width // block, block)
    pooled: Map = blocks.mean((1, 3))
    return pooled


def _scaled(values: Map, kind: Kind, *, fine: bool) -> Map:
    """To [-1, 1] when signed, else to [0, 1]; a mask is there already, and what is constant shows nothing."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if kind == "mask":
        return values.clip(0, 1)
    sizes = np.abs(values) if kind == "signed" else values - values.min()
    top = float(np.percentile(sizes, OUTLIERS) if fine else sizes.max()) or float(sizes.max())
    scaled = (values if kind == "signed" else sizes) / max(top, 1e-12)
    return scaled.clip(-1, 1).astype(np.float32)


def _fit(values: Map, pixels: tuple[int, ...], shown: tuple[int, ...]) -> Map:
    """To the size shown: repeated where there is a value a pixel, else interpolated."""
    method = Image.Resampling.NEAREST if values.shape == pixels else Image.Resampling.BICUBIC
    fitted: Map = np.asarray(Image.fromarray(values.astype(np.float32)).resize((shown[1], shown[0]), method))
    return fitted.clip(-1 if (values < 0).any() else 0, 1)

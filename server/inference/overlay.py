"""An image and its heatmap (g, g) → **a PNG with the heatmap laid over the image in colour**.

Red speaks for the predicted class, blue against it, and the picture shows through where the heatmap is near zero. The
strongest cell sets the scale, so an overlay shows *where*, not *how much*: for that there is the float map.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["colours", "overlay_png"]

# Diverging and readable by the colour-blind: RdBu of ColorBrewer, from −1 to 1.
STOPS = np.array([[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]], np.float32)
STRONGEST_COVER = 0.75


def colours(heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps a signed heatmap (h, w) in [-1, 1] to RGB (h, w, 3) in [0, 255]."""
    position = (np.clip(heatmap, -1, 1) + 1) / 2
    grid = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(position, grid, STOPS[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def overlay_png(image: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> bytes:
    """Lays a heatmap over an image.

    Args:
        image: (H, W, 3), as the classifier saw it.
        heatmap: (g, g), signed, in any unit.

    Returns:
        A PNG file of H × W.
    """
    picture = image.astype(np.float32)
    finite = np.nan_to_num(heatmap.astype(np.float32), posinf=0.0, neginf=0.0)
    scaled = finite / max(float(np.abs(finite).max()), 1e-12)
    size = (picture.shape[1], picture.shape[0])
    smooth = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC))
    cover = STRONGEST_COVER * np.abs(np.clip(smooth, -1, 1))[..., None]
    blended = picture * (1 - cover) + colours(smooth) * cover
    buffer = io.BytesIO()
    Image.fromarray(blended.round().clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()

"""An image as it would come out of a JPEG file: images (B, 3, H, W) in [0, 1] in, the same shape and range out.

    RGB ─▶ Y, Cb, Cr; Cb and Cr at half the size ─▶ 8×8 blocks ─▶ cosine transform ─▶ rounded to steps of the quality
        ─▶ and all the way back

All of it but the entropy coding, which loses nothing: batched, on any device, without a file. Calculated in float64, so
that whether a coefficient is rounded up does not depend on the device or on the neighbours in the batch.

Sources: ITU-T T.81 (1992), A.3.3 (transform) and K.1, K.2 (tables of steps); JFIF 1.02 (colours). How a quality scales
the tables is libjpeg's rule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from detector.surrogate import straight

__all__ = ["compress"]

BLOCK = 8
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # all others are 99
TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
TIE = 1e-6  # halves are rounded up, also where sums of cosines miss them by a hair


def compress(images: Tensor, quality: int) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] after a JPEG file of this quality, colours 4:2:0.

    Args:
        images: Of any size; edges are repeated up to whole blocks.
        quality: 1 to 100.
    """
    height, width = images.shape[-2:]
    luma, chroma = (table.to(images.device) for table in _steps(quality))
    pixels = functional.pad(
        images.double() * 255, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate"
    )
    planes = _rounded(_mix(pixels, TO_YCC))
    brightness = (_blockwise(planes[:, :1] - 128, luma) + 128).clamp(0, 255)
    colours = _blockwise(_rounded(functional.avg_pool2d(planes[:, 1:], 2)), chroma).clamp(-128, 127)
    colours = functional.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    back = _mix(torch.cat([brightness, colours], dim=1), TO_RGB)
    return (_rounded(back) / 255).clamp(0, 1).to(images.dtype)[..., :height, :width]


def _mix(planes: Tensor, weights: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", planes.new_tensor(weights), planes)


def _blockwise(planes: Tensor, steps: Tensor) -> Tensor:
    """(B, n, H, W) with every coefficient of every block rounded to its step."""
    count, n, height, width = planes.shape
    cosines = _cosines().to(planes.device)
    blocks = planes.view(count, n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    coefficients = _rounded(cosines @ blocks @ cosines.T / steps) * steps
    return _rounded(cosines.T @ coefficients @ cosines).transpose(3, 4).reshape(planes.shape)


def _rounded(values: Tensor) -> Tensor:
    return straight(torch.floor(values + 0.5 + TIE), values)


def _cosines() -> Tensor:
    """(8, 8): the orthonormal cosine transform, frequencies by rows."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    waves = torch.cos((2 * place + 1) * place[:, None] * math.pi / (2 * BLOCK)) / 2
    waves[0] = math.sqrt(1 / BLOCK)
    return waves


def _steps(quality: int) -> tuple[Tensor, Tensor]:
    """(8, 8) each: the steps of brightness and of colours."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma = torch.tensor(LUMA)
    chroma = torch.full((BLOCK, BLOCK), 99)
    chroma[:4, :4] = torch.tensor(CHROMA_CORNER)
    luma, chroma = ((table * percent + 50).div(100, rounding_mode="floor").clamp(1, 255) for table in (luma, chroma))
    return luma.double(), chroma.double()

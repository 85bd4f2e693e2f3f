"""Which photograph a strongly changed image shows: its colours in, the photograph out, or nobody's.

The 8×8 colours of both are compared by their correlation, which brightness and contrast do not touch. The likest
photograph is taken where it is far liker than the second likest one (the ratio test of Lowe 2004, "Distinctive image
features from scale-invariant keypoints", section 7.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.data.copies import Signature, cells_of

__all__ = ["likest"]

LEAST_ALIKE = 0.9
FAR_LIKER = 0.6
"""Of the second likest photograph's distance (1 − correlation). Among 6,000 CIFAR-10 photographs, 99.7 % of images that
Pixle, Square, noise, brightness or contrast changed find their own with both, and none another one; 0.7 % of
photographs that are not there find one."""
ROWS_AT_ONCE = 64


def likest(
    signatures: Sequence[Signature], photographs: Sequence[Signature], groups: Sequence[int]
) -> list[int | None]:
    """The place of the photograph that each image shows; None where that is nobody's, or may be one of several.

    Args:
        signatures: Of the images.
        photographs: Signatures of the photographs.
        groups: The same number for copies of one photograph.
    """
    there = [at for at, (digest, _, _) in enumerate(photographs) if digest]
    if not there or not signatures:
        return [None] * len(signatures)
    known, group = _normalised([photographs[at] for at in there]), np.array([groups[at] for at in there])
    found: list[int | None] = []
    for start in range(0, len(signatures), ROWS_AT_ONCE):
        alike = _normalised(signatures[start : start + ROWS_AT_ONCE]) @ known.T  # (rows, photographs)
        for row in alike:
            best = int(row.argmax())
            second = row[group != group[best]].max(initial=0.0)
            sure = row[best] >= LEAST_ALIKE and 1 - row[best] <= FAR_LIKER * (1 - second)
            found.append(there[best] if sure else None)
    return found


def _normalised(signatures: Sequence[Signature]) -> NDArray[np.float32]:
    """(N, 192) colours without the mean of each channel, of length 1; 0 where nothing is to be seen."""
    cells = cells_of(signatures)  # (N, 64, 3)
    colours = (cells - cells.mean(1, keepdims=True)).reshape(len(cells), -1)
    length = np.linalg.norm(colours, axis=1, keepdims=True)
    found: NDArray[np.float32] = colours / np.where(length > 0, length, 1)
    return found

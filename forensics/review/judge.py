"""A bundle → **`Judge`**: the heatmap of an image whose evidence was not recorded, computed anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.detector import Detector
from forensics.review.pictures import Judge, Pixels

__all__ = ["open_judge"]


def open_judge(bundle: Path, trusted: tuple[str, ...]) -> tuple[Judge, tuple[str, ...]]:
    """What draws, one image at a time, and the classes of its classifier.

    Raises:
        HeatwardError: The bundle cannot be used.
    """
    detector = Detector.from_bundle(bundle, allow=trusted)

    def judge(came: Pixels) -> tuple[Pixels, NDArray[np.float32]]:
        seen = detector.classifier.fit(came)
        (verdict,) = detector.detect(detector.classifier.prepare(seen)[None])
        return seen, verdict.heatmap

    return judge, detector.classifier.classes

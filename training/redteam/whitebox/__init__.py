"""Attackers who have the bundle: images in, the best that each of five ways of descent finds out.

selective    down the margin, then down the detector's excess (Bryniarski et al. 2021)
orthogonal   the same along the margin's contour
lagrangian   both at once, by a weight that is searched
features     towards a clean image of another class first
minimum      the nearest image that is through
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from detector.detector import Detector
from training.progress import Advance
from training.redteam.values import Budget, Outcome
from training.redteam.whitebox.descent import descend
from training.redteam.whitebox.methods import Features, Lagrangian, Minimum, Orthogonal, Selective

__all__ = ["LEAST", "WHITE_BOX", "Attack"]


class Attack(Protocol):
    """An attack on classifier and detector together; arguments and errors as of `descend`."""

    def __call__(
        self,
        detector: Detector,
        images: Tensor,
        rate: float,
        budget: Budget,
        seed: int,
        advance: Advance | None = None,
    ) -> Outcome:
        """Images (B, 3, H, W) → the best of each, as the real detector judges it."""


WHITE_BOX: dict[str, Attack] = {
    "selective": partial(descend, Selective),
    "orthogonal": partial(descend, Orthogonal),
    "lagrangian": partial(descend, Lagrangian),
    "features": partial(descend, Features),
    "minimum": partial(descend, Minimum),
}
LEAST = frozenset({"minimum"})
"""Those that look for the least change: one run within the widest budget tells of all."""

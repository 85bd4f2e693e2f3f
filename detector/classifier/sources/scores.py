"""What a model that can be asked says: scores (n, K), or (n, 1) of two classes, in; **logits (n, K)** out.

Nobody sees the model's last layer. So its scores are looked at: rows that sum to 1 (or to 100) are probabilities, whose
logarithms are taken, and the log says so. What looks like several labels an image is refused.
"""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import ClassifierSpecError

__all__ = ["Scores"]

_log = logging.getLogger("heatward")

Floats = NDArray[np.float32]
TOLERANCE = 0.01  # of probabilities rounded on their way
ROUNDING = 1e-4  # below 0
WHOLE = (1.0, 100.0)
"""What probabilities sum to."""


class Scores:
    """The reading of one model's scores.

    Args:
        source: What errors call the model.
        answers: What its scores are; None: to be found out by the first of them.
    """

    def __init__(self, source: str, answers: Literal["logits", "probabilities"] | None) -> None:
        self.source, self.answers = source, answers

    def logits(self, scores: Floats) -> Tensor:
        """(n, K); what is not finite stays so, for whoever knows which images these are.

        Raises:
            ClassifierSpecError: They are not what they are said to be, or nobody can know what they are.
        """
        finite = scores[np.isfinite(scores).all(1)]
        if self.answers is None and len(finite):
            self.answers = self._found_out(finite)
        if self.answers == "probabilities" and len(finite):
            scores = scores / self._whole(finite)
        values = torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float32))
        tiny = torch.finfo(torch.float32).eps
        if scores.shape[1] == 1:  # of the second class
            if self.answers == "probabilities":
                values = values.clamp(tiny, 1 - tiny).logit()
            return torch.cat([-values / 2, values / 2], 1)
        return values.clamp_min(tiny).log() if self.answers == "probabilities" else values

    def _found_out(self, scores: Floats) -> Literal["logits", "probabilities"]:
        if scores.shape[1] == 1:
            raise ClassifierSpecError(
                f"{self.source} answers one score for two classes, taken for the second one's: say what it is, "
                'arguments.answers = "probabilities" (of a sigmoid) or "logits".'
            )
        if _whole_of(scores) is not None:
            _log.info("%s answers probabilities: their logarithms are taken for logits", self.source)
            return "probabilities"
        if scores.min() >= 0 and scores.max() <= 1:
            raise ClassifierSpecError(
                f"{self.source} answers numbers between 0 and 1 that do not sum to 1: a net with several labels an "
                "image (multi-label, a sigmoid for each class) cannot be guarded; leave its sigmoids out if exactly "
                'one class is right. If these are logits, say arguments.answers = "logits".'
            )
        return "logits"

    def _whole(self, scores: Floats) -> float:
        whole = _whole_of(scores)
        if whole is None:
            sums = scores.sum(1)
            raise ClassifierSpecError(
                f"{self.source} answers numbers in {scores.min():.3g} … {scores.max():.3g} with sums {sums.min():.3g} "
                f"… {sums.max():.3g}, expected probabilities: if they are logits, say "
                'arguments.answers = "logits".'
            )
        return whole


def _whole_of(scores: Floats) -> float | None:
    """What the probabilities of each row sum to; None where they are none."""
    if scores.min() < -ROUNDING:
        return None
    if scores.shape[1] == 1:
        return 1.0 if scores.max() <= 1 + TOLERANCE else None
    sums = scores.sum(1)
    return next((whole for whole in WHOLE if (abs(sums - whole) <= TOLERANCE * whole).all()), None)

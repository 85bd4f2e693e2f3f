"""Attack scores of clean images → `Calibration` → **p-values**; a threshold is a false-positive rate.

Split-conformal p-values (Vovk, Gammerman & Shafer 2005, ch. 2; Angelopoulos & Bates 2021, section 1; Bates et al. 2023,
"Testing for outliers with conformal p-values", eq. 3): if a new clean image is exchangeable with the n calibration
images, then P(p ≤ a) ≤ a for every a, whatever the network, the classifier and n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import CalibrationError

__all__ = ["FEWEST_SCORES", "RATES", "Calibration", "one_of_each", "rank_at"]

FEWEST_SCORES = 19
"""With fewer clean images not even a rate of 5 % can be reached."""

RATES = (0.001, 0.01, 0.05, 0.1)
"""False-positive rates that every bundle reports, where its calibration reaches them."""


@dataclass(frozen=True)
class Calibration:
    """What clean images score.

    Attributes:
        scores: (n,) float64 attack scores of clean images, ascending, on the CPU.
    """

    scores: Tensor

    @classmethod
    def fit(cls, scores: Tensor) -> Calibration:
        """Calibrate on the attack scores of clean images that the network was not trained on.

        Args:
            scores: (n,), higher is more attack-like.

        Raises:
            CalibrationError: Fewer than 19 scores, or one is NaN or infinite.
        """
        if scores.ndim != 1 or len(scores) < FEWEST_SCORES:
            raise CalibrationError(
                f"A calibration needs a vector of at least {FEWEST_SCORES} clean scores, got {tuple(scores.shape)}: "
                "set more clean images aside for it."
            )
        scores = _float64(scores)
        bad = int((~scores.isfinite()).sum())
        if bad:
            raise CalibrationError(f"{bad} of {len(scores)} clean scores are NaN or infinite: the network is broken.")
        return cls(scores.sort().values)

    def p_value(self, scores: Tensor) -> Tensor:
        """How usual such scores are among clean images: (1 + #{clean ≥ score}) / (n + 1), in (0, 1].

        Ties count against the alarm. An image is an attack at false-positive rate a when its p-value is ≤ a.

        Args:
            scores: Any shape, any device.

        Returns:
            float64 of the same shape, on the CPU.

        Raises:
            CalibrationError: A score is NaN.
        """
        scores = _float64(scores)
        if scores.isnan().any():
            raise CalibrationError("An attack score is NaN: it has no p-value.")
        below = torch.searchsorted(self.scores, scores.contiguous())  # how many clean scores are < score
        return (1 + len(self.scores) - below).double() / (len(self.scores) + 1)

    def threshold(self, rate: float) -> float:
        """The smallest score that is flagged at a false-positive rate: `score ≥ threshold` is `p_value ≤ rate`.

        Raises:
            CalibrationError: The rate is outside (0, 1), or too small for so few clean images.
        """
        total = len(self.scores) + 1
        if not 0 < rate < 1:
            raise CalibrationError(f"A false-positive rate lies between 0 and 1, got {rate}.")
        rank = rank_at(rate, len(self.scores))
        if rank < 1:
            raise CalibrationError(
                f"A false-positive rate of {rate} needs {math.ceil(1 / rate) - 1} clean images, "
                f"this calibration has {len(self.scores)}: the smallest rate is {1 / total:.3g}."
            )
        return math.nextafter(float(self.scores[-rank]), math.inf)

    def operating_points(self) -> dict[float, float]:
        """Threshold by false-positive rate, for those of `RATES` that so many clean images reach."""
        return {rate: self.threshold(rate) for rate in RATES if 1 / (len(self.scores) + 1) <= rate}


def one_of_each(scores: NDArray[np.float64], source: NDArray[np.int64]) -> NDArray[np.float64]:
    """As many scores as there are photographs, of photographs that were each scored in several ways.

    Versions of one photograph are no further evidence: n photographs promise no rate below 1/(n + 1), however many
    ways they arrived. Each counts once, shared among its versions, and of what makes one photograph up, from the
    highest score down, the highest is kept (Lee, Barber & Willett 2023, "Distribution-free inference with hierarchical
    data").

    Args:
        scores: (N,).
        source: (N,) the photograph of each.

    Returns:
        (n,); `scores` as they are where each photograph has one.
    """
    _, photograph, versions = np.unique(source, return_inverse=True, return_counts=True)
    if len(versions) == len(scores):
        return scores
    order = np.argsort(-scores, kind="stable")
    share = np.cumsum(1 / versions[photograph[order]])
    # the k-th photograph is complete where more than k shares have come; 1e-9: thirds do not add up to a whole
    places = np.searchsorted(share, np.arange(len(versions)) + 1e-9, side="right")
    return scores[order[places]]


def rank_at(rate: float, count: int) -> int:
    """The rank, from the largest, of the clean score that an image must exceed to be flagged at a false-positive rate.

    It is the largest r with r / (n + 1) ≤ rate, in floating point as in `p_value`; 0 where n scores are too few.

    Args:
        rate: Between 0 and 1.
        count: Clean scores.
    """
    rank = math.floor(rate * (count + 1)) + 1
    while rank / (count + 1) > rate:
        rank -= 1
    return rank


def _float64(scores: Tensor) -> Tensor:
    return scores.detach().to("cpu").double()

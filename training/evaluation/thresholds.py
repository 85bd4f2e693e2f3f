"""Scores of clean calibration images → **`Thresholds`**: what a test image must exceed to be flagged, by rate.

A threshold is one number, or one for each predicted class where a detector calibrates by group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration, one_of_each
from detector.scoring.groups import Groups
from training.evaluation.metrics import flagged, threshold_at
from training.evaluation.scores import Scored

__all__ = ["RATES", "Cut", "Cuts", "Thresholds", "alarms_of", "cuts_by_class", "regrouped"]

RATES = (0.01, 0.05)

Cut = float | NDArray[np.float64]  # a threshold, or (K,) one by predicted class
Cuts = Mapping[float, Cut]  # false-positive rate → threshold


@dataclass(frozen=True)
class Thresholds:
    """The score that an image must exceed to be flagged, by false-positive rate."""

    served: Cuts
    """Set on all clean calibration images: a server cannot know which of them are rightly classified."""
    on_correct: Cuts
    """Set on the rightly classified ones alone: the kind of image that is an AUROC's negative."""

    @classmethod
    def of(
        cls, calibrate: Scored, served: NDArray[np.float64] | None = None, groups: Groups | None = None
    ) -> Thresholds:
        """Thresholds of clean calibration images.

        Args:
            calibrate: what the detector says about them.
            served: (n,) the clean scores that it flags by, where they are others.
            groups: the same by group, where it flags by predicted class.

        Raises:
            DataError: no image.
        """
        every = one_of_each(calibrate.score, calibrate.source) if served is None else served
        right = calibrate[calibrate.correct]
        correct = one_of_each(right.score, right.source)
        by_all = _cuts(every) if groups is None else cuts_by_class(groups)
        return cls(by_all, _cuts(correct) if len(correct) else dict.fromkeys(RATES, math.inf))


def cuts_by_class(groups: Groups) -> Cuts:
    """The score to exceed, by rate and predicted class; infinity where one class does not reach the rate."""
    found: dict[float, Cut] = {}
    for rate in RATES:
        smallest = groups.thresholds(rate)
        found[rate] = math.inf if smallest is None else np.nextafter(smallest, -np.inf)
    return found


def regrouped(groups: Groups, clean: Scored) -> Groups | None:
    """Another detector's scores of clean images in the same groups; None where one of them is left with too few."""
    group = groups.of(torch.from_numpy(clean.prediction)).numpy()
    try:
        own = [
            Calibration.fit(torch.from_numpy(one_of_each(clean.score[group == each], clean.source[group == each])))
            for each in range(len(groups.calibrations))
        ]
    except CalibrationError:
        return None
    return Groups(tuple(own), groups.of_class)


def alarms_of(scored: Scored, cut: Cut) -> NDArray[np.bool_]:
    """Which images (n,) are flagged."""
    return flagged(scored.score, cut if isinstance(cut, float) else cut[scored.prediction])


def _cuts(clean: NDArray[np.float64]) -> Cuts:
    return {rate: threshold_at(clean, rate) for rate in RATES}

"""Attack scores of clean images, by predicted class → **`Groups`**: an image is ranked among those of its own group.

Mondrian conformal prediction (Vovk, Gammerman & Shafer 2005, section 4.5): if the images of a group are exchangeable,
then P(p ≤ a) ≤ a within it, whatever share of the traffic it is. One calibration of all images promises that for all
images together only, so that some classes may be flagged more often, and others less.

A group is a predicted class, for that is what a server knows. Classes with too few images for the rate that is wanted
make one group together, joined by the next smallest class until there are enough: so each image belongs to a group that
keeps the promise. (Were they ranked among *all* images, the rate would hold neither for them nor for all together.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import CalibrationError
from detector.scoring.calibration import FEWEST_SCORES, Calibration, one_of_each, rank_at

__all__ = ["SHARED", "Groups"]

SHARED = "*"
"""Name of the group of all classes that have too few images for one of their own."""
SCORES, GROUP, OF_CLASS = "group_scores", "group", "group_of_class"
"""Names of its tensors."""


@dataclass(frozen=True)
class Groups:
    """A calibration of each group.

    Attributes:
        calibrations: Of each group.
        of_class: (K,) int64 the group of each class.
    """

    calibrations: tuple[Calibration, ...]
    of_class: Tensor

    @classmethod
    def fit(
        cls,
        scores: NDArray[np.float64],
        predictions: NDArray[np.int64],
        sources: NDArray[np.int64],
        *,
        classes: int,
        rate: float,
    ) -> Groups:
        """Calibrate each predicted class.

        Args:
            scores: (N,) of clean images.
            predictions: (N,) their predicted classes.
            sources: (N,) the photograph of each; one that arrived in several ways counts once in a group.
            classes: K.
            rate: The false-positive rate that every group must reach.

        Raises:
            CalibrationError: All images together are too few.
        """

        def images(group: Sequence[int]) -> int:
            return len(np.unique(sources[np.isin(predictions, group)]))

        def too_few(group: Sequence[int]) -> bool:
            count = images(group)
            return count < FEWEST_SCORES or rank_at(rate, count) < 1

        everything = range(classes)
        if too_few(everything):
            raise CalibrationError(
                f"{images(everything)} clean images do not reach a false-positive rate of {rate:g}: calibrate on more "
                "images, or at a larger rate"
            )
        ascending = sorted(everything, key=lambda each: images([each]))
        shared = [each for each in ascending if too_few([each])]
        while shared and too_few(shared):
            shared.append(ascending[len(shared)])
        members = [[each] for each in everything if each not in shared] + ([shared] if shared else [])
        of_class = np.zeros(classes, np.int64)
        calibrations = []
        for number, group in enumerate(members):
            of_class[group] = number
            rows = np.isin(predictions, group)
            calibrations.append(Calibration.fit(torch.from_numpy(one_of_each(scores[rows], sources[rows]))))
        return cls(tuple(calibrations), torch.from_numpy(of_class))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], classes: int) -> Groups:
        """What `tensors` wrote.

        Raises:
            CalibrationError: They are not of this kind, or of another number of classes.
        """
        try:
            scores, group, of_class = (tensors[name] for name in (SCORES, GROUP, OF_CLASS))
            count = int(of_class.max()) + 1
            fits = of_class.shape == (classes,) and group.shape == scores.shape and int(of_class.min()) >= 0
        except (KeyError, RuntimeError) as error:
            raise CalibrationError(f"the calibration by group is damaged ({error}): train the bundle again") from error
        if not fits:
            raise CalibrationError(
                f"the calibration by group is of {len(of_class)} classes, the classifier has {classes}: train the "
                "bundle again"
            )
        return cls(tuple(Calibration.fit(scores[group == number]) for number in range(count)), of_class)

    def tensors(self) -> dict[str, Tensor]:
        """As a bundle stores them."""
        sizes = torch.tensor(self.sizes)
        return {
            SCORES: torch.cat([each.scores for each in self.calibrations]),
            GROUP: torch.arange(len(sizes)).repeat_interleave(sizes),
            OF_CLASS: self.of_class,
        }

    @property
    def sizes(self) -> tuple[int, ...]:
        """Clean images of each group."""
        return tuple(len(each.scores) for each in self.calibrations)

    @property
    def scarcest(self) -> Calibration:
        """Of the fewest images: what it cannot promise, nobody can promise for every image."""
        return min(self.calibrations, key=lambda each: len(each.scores))

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Name of each group: its class, by number where it has no name, or `SHARED`."""
        found = [SHARED] * len(self.calibrations)
        for number in range(len(found)):
            members = (self.of_class == number).nonzero().flatten().tolist()
            if len(members) == 1:
                found[number] = classes[members[0]] if members[0] < len(classes) else str(members[0])
        return tuple(found)

    def of(self, predictions: Tensor) -> Tensor:
        """(B,) predicted classes → (B,) groups."""
        return self.of_class[predictions.cpu()]

    def p_value(self, scores: Tensor, predictions: Tensor) -> Tensor:
        """How unusual scores (B,) are among clean images of the same group; float64 (B,), on the CPU.

        Raises:
            CalibrationError: A score is NaN.
        """
        groups = self.of(predictions)
        found = torch.empty(len(groups), dtype=torch.float64)
        for number in set(groups.tolist()):
            rows = groups == number
            found[rows] = self.calibrations[number].p_value(scores.cpu()[rows])
        return found

    def thresholds(self, rate: float) -> NDArray[np.float64] | None:
        """(K,) the smallest score that is flagged, by predicted class; None where a group cannot promise the rate."""
        if rank_at(rate, len(self.scarcest.scores)) < 1:
            return None
        cuts = np.array([each.threshold(rate) for each in self.calibrations], dtype=np.float64)
        found: NDArray[np.float64] = cuts[self.of_class.numpy()]
        return found

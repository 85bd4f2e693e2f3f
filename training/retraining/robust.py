"""What attacked images among clean ones do to a threshold: scores in; what to leave out, and the share that breaks it.

At false-positive rate a, with n images, an image must exceed the score of rank r = ⌊a (n + 1)⌋ from the top. Attacked
images take the top places: k of them push the threshold up by k places of the clean ones. Leaving out the k highest
scores withstands k attacked images; where nobody attacked, the rate is then up to a + k / n instead of a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from detector.errors import CalibrationError
from detector.scoring.calibration import FEWEST_SCORES, rank_at
from training.retraining.paired import wilson

__all__ = ["Breakdown", "breakdown", "needed", "suspicious", "trimmed"]


@dataclass(frozen=True)
class Breakdown:
    """How many attacked images make a threshold useless: half of the attacks pass it."""

    attacked: int
    share: float
    """Of all images."""
    attack: str
    """The attack whose median score is reached first; empty where no median is known, and the share is an upper
    bound."""


def needed(rate: float) -> int:
    """The fewest clean images that reach a false-positive rate."""
    return max(FEWEST_SCORES, math.ceil(round(1 / rate, 9)) - 1)


def trimmed(scores: Tensor, attacked_share: float) -> Tensor:
    """Scores (n,) without the highest ones: as many as may be attacked."""
    return scores.sort().values[: len(scores) - math.ceil(attacked_share * len(scores))]


def suspicious(flagged: int, count: int, rate: float) -> float:
    """The share of images that is surely flagged beyond the rate; 0 where chance may explain all of it.

    The lower end of Wilson's 95 % interval, less the rate.
    """
    return max(0.0, wilson(flagged / count, count)[0] - rate)


def breakdown(scores: Tensor, rate: float, medians: dict[str, float]) -> Breakdown:
    """The fewest attacked images among so many that move the threshold to the median score of an attack.

    Half of the attacked images score above their median, so k of them bring k / 2 scores there, beside the clean ones.

    Args:
        scores: (n,) of clean images.
        rate: Of false positives.
        medians: Attack → its median score. Those that the threshold has passed already tell nothing.

    Raises:
        CalibrationError: So few images do not reach the rate.
    """
    count = len(scores)
    rank = rank_at(rate, count)
    if rank < 1:
        raise CalibrationError(
            f"{count} clean images do not reach a false-positive rate of {rate:g}: use {needed(rate)}"
        )
    left = {name: rank - int((scores >= median).sum()) for name, median in medians.items()}
    open_to = {name: places for name, places in left.items() if places > 0}
    attack = min(open_to, key=lambda name: open_to[name], default="")
    attacked = min(count, 2 * open_to.get(attack, rank))
    return Breakdown(attacked, attacked / count, attack)

"""P-values of many images → **which of them to call attacked**, so that few of those are false alarms.

At a false-positive rate of 1 % a thousand clean images give ten alarms, and where few are attacked most alarms are
false. The false discovery rate is the expected share of false alarms among all alarms. Benjamini & Hochberg (1995):
call attacked the k smallest p-values, for the largest k whose k-th is at most k · rate / m. Conformal p-values of
images that share one calibration are dependent, but so (PRDS) that the procedure keeps its promise (Bates, Candès, Lei,
Romano & Sesia 2023, "Testing for outliers with conformal p-values", theorem 2): that rate, times the share of clean
images, for clean images like those of the calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from heatward.client import checks

__all__ = ["discoveries", "fewest_discoveries"]


def discoveries(p_values: Iterable[float | None], false_discovery_rate: float) -> list[bool]:
    """Which images of a batch are discoveries.

    All must come from one detector (`Verdict.detector_version`), and be all that were judged: to leave out those that
    look clean breaks the promise.

    Args:
        p_values: `Verdict.p_value` of each.
        false_discovery_rate: The expected share of clean images among the discoveries, in (0, 1).

    Returns:
        As many as p-values, in their order.

    Raises:
        ValueError: A rate or a p-value is out of range, or a p-value is None: the server does not tell it.
    """
    rate = checks.rate("false_discovery_rate", false_discovery_rate)
    told = list(p_values)
    values = [float(each) for each in told if each is not None]
    if len(values) < len(told):
        raise ValueError("a p-value is None: the server does not tell it, and nothing can be discovered without")
    for value in values:
        if not 0 < value <= 1:
            raise ValueError(f"a p-value lies above 0 and at most at 1; this is {value}")
    largest = 0.0
    for rank, value in enumerate(sorted(values), 1):
        if value <= rank * rate / len(values):
            largest = value
    return [value <= largest for value in values]


def fewest_discoveries(images: int, false_discovery_rate: float, smallest_p_value: float) -> int:
    """No fewer than so many images of a batch can be discoveries: where fewer are attacked, none is found.

    n clean images in the calibration give no p-value below 1 / (n + 1), which is compared with k · rate / m.

    Args:
        images: m.
        false_discovery_rate: In (0, 1).
        smallest_p_value: `DetectorInfo.smallest_false_positive_rate`.
    """
    return max(1, math.ceil(images * smallest_p_value / false_discovery_rate - 1e-9))

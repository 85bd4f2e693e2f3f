"""Two looks as one score: a glance clears most clean images, the full networks rank what it does not clear.

    evidence of a glance ─▶ glance networks ─▶ score ─┬─ below the threshold: cleared ─▶ score − threshold, below 0
                                                      └─ goes on ─▶ all evidence ─▶ networks ─▶ their score, 0 and up

The pair is one fixed function of an image, so a conformal p-value of it is exact over both looks (ADR 24): who is
cleared is ranked below all who went on. The threshold is chosen on images that are neither calibration nor test.
Source: Viola & Jones 2001, "Rapid Object Detection using a Boosted Cascade of Simple Features".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from detector.errors import CalibrationError
from detector.evidence import Evidence, EvidenceShape
from detector.scoring.calibration import RATES, Calibration
from detector.scoring.groups import SHARED, Groups
from detector.scoring.network import HeatmapNetwork, score
from detector.settings import MOST_CLEARED, NetworkSettings, StoredSettings
from detector.text import printable

__all__ = ["Cascade", "CascadeSettings", "check_vouched", "score_of_both", "threshold_of"]


class CascadeSettings(StoredSettings):
    """What a bundle knows of its cascade, beside the weights of the glance networks."""

    LATER = ("views",)

    clears: float = Field(gt=0, le=MOST_CLEARED)
    """Share of clean images that was to be cleared."""
    threshold: float
    """Glance scores below it are cleared."""
    shape: EvidenceShape
    """Of the evidence that the glance networks read."""
    settings: NetworkSettings
    """Theirs."""
    views: tuple[str, ...] = ()
    """Names of the views that the glance takes."""


@dataclass(frozen=True)
class Cascade:
    """The first look of a detector.

    Attributes:
        networks: The glance networks, in eval mode.
        threshold: Images whose glance score is below it are cleared.
        clears: Share of clean images that was to be cleared.
        views: Places of the views that the glance takes, among those of the evidence.
    """

    networks: tuple[HeatmapNetwork, ...]
    threshold: float
    clears: float
    views: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, settings: CascadeSettings, families: int, weights: dict[str, Tensor], views: tuple[int, ...] = ()
    ) -> Cascade:
        """Rebuild it from what a bundle holds, and the places of its views.

        Raises:
            BundleDamagedError: The weights do not fit the sizes.
        """
        networks = HeatmapNetwork.ensemble(settings.shape, families, settings.settings, weights)
        return cls(tuple(networks), settings.threshold, settings.clears, views)

    def to(self, device: torch.device | str) -> Cascade:
        return replace(self, networks=tuple(network.to(device) for network in self.networks))

    def judge(
        self, glance: Evidence, networks: Sequence[HeatmapNetwork], look: Callable[[Tensor], Evidence]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rank B images, in their order.

        Args:
            glance: Evidence about them, with the views that the glance takes.
            networks: The full ones.
            look: Rows (n,) that go on → all evidence about these images; not asked where none does.

        Returns:
            Attack score (B,) float64: below 0 where the glance cleared an image, by how far; origin probabilities
            (B, C) over the candidates, by the look that decided; and the rows (n,) that went on.
        """
        scores, origin = score(self.networks, glance)
        scores = scores - self.threshold
        rows = (scores >= 0).nonzero()[:, 0]
        if len(rows):
            full, full_origin = score(networks, look(rows))
            scores[rows] = full.clamp_min(0)  # it is, but for the last digit
            origin[rows] = full_origin
        return scores, origin, rows


def score_of_both(
    cascade: Cascade | None, networks: Sequence[HeatmapNetwork], evidence: Evidence
) -> tuple[Tensor, Tensor]:
    """Attack score (B,) and origin probabilities (B, C) as a detector gives them, from all evidence of every image.

    Args:
        cascade: The first look; None where there is none.
        networks: The full ones.
        evidence: Views included, although a detector takes them only of images that go on.
    """
    if cascade is None:
        return score(networks, evidence)
    return cascade.judge(evidence.at_a_glance(cascade.views), networks, lambda rows: evidence[rows])[:2]


def threshold_of(scores: Tensor, clears: float) -> float:
    """The smallest threshold that clears at least this share of clean images.

    Args:
        scores: (n,) glance scores of clean images that neither taught the glance networks nor calibrate.
        clears: Above 0, below 1.
    """
    count = math.ceil(clears * len(scores))
    return math.nextafter(float(scores.double().sort().values[count - 1]), math.inf)


def check_vouched(calibration: Calibration, groups: Groups | None = None, classes: Sequence[str] = ()) -> None:
    """See that the operating points lie among the images that went on.

    Args:
        calibration: Of all images.
        groups: The same by group, if images are ranked among those of their group; each must then vouch for its own.
        classes: Names of the classes, to name a group.

    Raises:
        CalibrationError: One of them would flag images that the glance cleared.
    """
    named = zip(groups.names(classes), groups.calibrations, strict=True) if groups else [("", calibration)]
    for name, each in named:
        count = len(each.scores)
        went_on = int((each.scores >= 0).sum())
        reached = max(rate for rate in RATES if rate >= 1 / (count + 1))
        if each.threshold(reached) < 0:
            raise CalibrationError(
                f"[cascade] clears: {went_on} of {count} calibration images{_of(name)} went on to the full look "
                f"({went_on / count:.1%}), too few to flag at {reached:g}: clear a smaller share, or calibrate on more"
                + (", or all predicted classes together" if name else "")
            )


def _of(group: str) -> str:
    if not group:
        return ""
    return " of predicted classes that share a group" if group == SHARED else f" predicted as {printable(group)}"

"""A calibration → what a bundle's manifest says of it beside the scores, and what is to be said to whoever made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from detector.scoring.groups import SHARED, Groups
from detector.scoring.tail import Tail
from detector.text import printable
from training.settings import CalibrateSettings

__all__ = ["describe"]

NAMED = 5


def describe(
    calibration: Calibration, groups: Groups | None, settings: CalibrateSettings, classes: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """`Manifest.calibration`, and notes: of classes that share a group, of tails that cannot be estimated.

    Args:
        calibration: Of all images.
        groups: The same by group, if it calibrates so.
        settings: What was asked for.
        classes: Names of the classes.
    """
    said: dict[str, Any] = {}
    notes: list[str] = []
    named = {"": calibration}
    if groups:
        named = dict(zip(groups.names(classes), groups.calibrations, strict=True))
        said |= {"by": settings.by, "rate": settings.rate, "groups": dict(zip(named, groups.sizes, strict=True))}
    if groups and SHARED in named:
        shared = groups.of_class == list(named).index(SHARED)
        said["shared"] = [classes[each] for each in shared.nonzero().flatten().tolist()]
        members = ", ".join(said["shared"][:NAMED]) + (", …" if len(said["shared"]) > NAMED else "")
        notes.append(
            f"{len(said['shared'])} of {len(classes)} predicted classes share {len(named[SHARED].scores)} clean "
            f"images, since some have too few for a false-positive rate of {settings.rate:g}: {printable(members)}"
        )
    if settings.tail:
        said["tail"] = True  # the wish: whoever loads the bundle fits the same tail, or none
        notes += _refused(named)
    return said, notes


def _refused(named: Mapping[str, Calibration]) -> list[str]:
    """A note, where tails cannot be estimated: of which groups, and why not of the first."""
    refused: dict[str, str] = {}
    for name, each in named.items():
        try:
            Tail.fit(each.scores.numpy())
        except CalibrationError as error:
            refused[name] = str(error)
    if not refused:
        return []
    first, why = next(iter(refused.items()))
    where = f" in {len(refused)} of {len(named)} groups, the first {printable(first)}" if first else ""
    return [f"no tail estimate{where}: {why}"]

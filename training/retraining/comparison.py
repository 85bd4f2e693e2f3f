"""A comparison as one typed value, and the decision: what both detectors flagged in; promoted or not, and why, out.

The challenger becomes champion where, at the chosen false-positive rate,

1. on every old attack, and on images that nobody attacked, it is not worse: the 95 % interval of the paired difference
   reaches 0; and on the test images, whose number you choose, it excludes a loss of more than the tolerance;
2. on what is new it is better: the interval of the mean difference on the new attacks, and on those reported since the
   champion was made, lies above 0. Where nothing is new, it is better on the old attacks together, or no worse and made
   from other images than the champion.

Nothing is corrected for many attacks: where chance makes one of them look worse, the champion stays, which is safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.table import Table

from detector.errors import DataError
from training.evaluation.metrics import Bootstrap
from training.evaluation.result import Number, Result
from training.evaluation.tables import blank_table
from training.retraining.paired import paired_difference
from training.shards import write_json

__all__ = ["FILE", "Comparison", "Flags", "Group", "Row", "Told", "decide", "table"]

FILE = "comparison.json"
Group = Literal["old attack", "new attack", "reported attack", "reported before", "clean", "traffic"]
NEW: tuple[Group, ...] = ("new attack", "reported attack")
ATTACKS: tuple[Group, ...] = ("old attack", *NEW, "reported before")
Told = Literal["better", "no worse", "worse", "too few images"]


@dataclass(frozen=True)
class Flags:
    """What both detectors flagged of one label."""

    group: Group
    source: NDArray[np.int64]  # (n,) source image
    champion: NDArray[np.bool_]  # (n,)
    challenger: NDArray[np.bool_]  # (n,)
    median: float | None = None
    """Median score that the challenger gives it."""


class Row(Result):
    """One label: how much of it each flags, and the difference, challenger less champion."""

    label: str
    group: Group
    images: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    told: Told
    median: float | None = None
    """Median score that the challenger gives: what attacked calibration images would have to reach."""


class Comparison(Result):
    """A challenger beside its champion, and what became of it."""

    format: Literal["heatward-comparison"] = "heatward-comparison"
    schema_version: int = 1
    champion: str
    """Digest."""
    challenger: str
    """Digest, as it was before it was told its parent."""
    rate: float
    """The false-positive rate at which both flag."""
    tolerance: float
    """The loss that must be excluded."""
    rows: tuple[Row, ...]
    on_old: Number
    """Mean difference over the old attacks."""
    on_new: Number
    """Mean difference over the new attacks; nothing where none is new."""
    promoted: bool
    reasons: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write comparison.json."""
        write_json(folder / FILE, self.dump())

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Read comparison.json.

        Raises:
            DataError: There is none, or another heatward wrote it.
        """
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{folder / FILE}: cannot be read as a comparison: {error}") from error


def decide(
    flags: Mapping[str, Flags],
    *,
    champion: str,
    challenger: str,
    rate: float,
    tolerance: float,
    missing: Sequence[str] = (),
    forget: Sequence[str] = (),
    withdrawn: str = "",
    fresh: bool,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare, and decide as the module's docstring says.

    Args:
        flags: By label; labels without an image are left out, but an old attack must have some.
        champion: Its digest.
        challenger: Its digest.
        rate: The false-positive rate at which both flagged.
        tolerance: The loss that must be excluded.
        missing: Old attacks that the configuration lacks.
        forget: Old attacks that need not be measured.
        withdrawn: Where the challenger is a champion that somebody rolled back from: what is to be said of it.
        fresh: Whether the challenger was made from other images than the champion.
        resamples: Bootstrap draws, for means over several attacks.
        seed: Of the draws.
    """
    rows = tuple(_row(label, each, tolerance) for label, each in flags.items() if len(each.source))
    old, new = (_mean(flags, group, resamples, seed) for group in (("old attack",), NEW))
    losses = [_loss(row, tolerance) for row in rows if row.told in ("worse", "too few images")]
    losses += [
        f"{label}: the champion knows this attack, the configuration lacks it: put it back (train = false will do), or "
        f"give it up with --forget {label}"
        for label in missing
    ]
    losses += [
        f"{label}: the champion knows this attack, and no test image of it was there to compare on: raise its limit, "
        f"its size or its steps, or give it up with --forget {label}"
        for label, each in flags.items()
        if each.group == "old attack" and not len(each.source) and label not in forget
    ]
    losses += [withdrawn] if withdrawn else []
    gains = _gains(old, new, fresh)
    return Comparison(
        champion=champion,
        challenger=challenger,
        rate=rate,
        tolerance=tolerance,
        rows=rows,
        on_old=old,
        on_new=new,
        promoted=bool(gains) and not losses,
        reasons=tuple(losses or gains or [_no_gain(new)]),
    )


def table(comparison: Comparison) -> Table:
    """One row a label, and the means."""
    title = f"Flagged at a false-positive rate of {comparison.rate:g}, by champion and challenger, on the same images"
    found = blank_table(title, "images", "", numbers=("n", "champion", "challenger", "difference"))
    found.add_column("")
    for row in comparison.rows:
        found.add_row(
            row.label,
            row.group,
            str(row.images),
            f"{row.champion:.1%}",
            f"{row.challenger:.1%}",
            _interval(row.difference, row.low, row.high),
            row.told,
        )
    for name, mean in (("mean of old attacks", comparison.on_old), ("mean of new attacks", comparison.on_new)):
        if mean.count:
            found.add_row(name, "", str(mean.count), "", "", _interval(mean.value, mean.low, mean.high), "")
    return found


def _row(label: str, flags: Flags, tolerance: float) -> Row:
    found = paired_difference(flags.champion, flags.challenger)
    # a gain of alarms on what nobody attacked is a loss
    low, high = (found.low, found.high) if flags.group in ATTACKS else (-found.high, -found.low)
    enough = low >= -tolerance or flags.group not in ("old attack", "clean")
    told: Told = "better" if low > 0 else "worse" if high < 0 else "no worse" if enough else "too few images"
    return Row(
        label=label,
        group=flags.group,
        images=len(flags.source),
        champion=float(flags.champion.mean()),
        challenger=float(flags.challenger.mean()),
        difference=found.value,
        low=found.low,
        high=found.high,
        told=told,
        median=flags.median,
    )


def _mean(flags: Mapping[str, Flags], groups: Sequence[Group], resamples: int, seed: int) -> Number:
    """Mean difference over all rows of some groups; an image and all its attacked versions are drawn together."""
    chosen = [each for each in flags.values() if each.group in groups and len(each.source)]
    sources = np.concatenate([each.source for each in chosen]) if chosen else np.zeros(0, np.int64)
    gains = [each.challenger.astype(np.float64) - each.champion.astype(np.float64) for each in chosen]
    bootstrap = Bootstrap(sources if chosen else np.zeros(1, np.int64), resamples=resamples, seed=seed)
    return bootstrap.mean(np.concatenate(gains) if gains else np.zeros(0), sources)


def _loss(row: Row, tolerance: float) -> str:
    kind = "flags less" if row.group in ATTACKS else "raises more false alarms"
    seen = f"{row.champion:.1%} → {row.challenger:.1%}, difference {_interval(row.difference, row.low, row.high)}"
    if row.told == "worse":
        return f"{row.label}: the challenger {kind} ({seen} of {row.images} images)"
    return (
        f"{row.label}: {row.images} images are too few to exclude that the challenger {kind} by more than "
        f"{tolerance:.1%} ({seen}): use more test images, or a larger --tolerance"
    )


def _gains(old: Number, new: Number, fresh: bool) -> list[str]:
    if new.count:
        return [f"better on the new attacks ({_interval(new.value, new.low, new.high)})"] if new.low > 0 else []
    if old.count and old.low > 0:
        return [f"better on the old attacks together ({_interval(old.value, old.low, old.high)})"]
    return ["no worse, and made from other images than the champion"] if fresh else []


def _no_gain(new: Number) -> str:
    if new.count:
        return f"the challenger is not better on the new attacks ({_interval(new.value, new.low, new.high)})"
    return "nothing is new: the same images and attacks, and the challenger is not better on them"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.1%} [{low:+.1%}, {high:+.1%}]"

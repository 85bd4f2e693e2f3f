"""What came of an adaptation: evaluations of the old detector and the adapted one in; JSON and a table out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from rich.table import Table

from training.config import CLEAN
from training.deliveries import AT
from training.evaluation.metrics import Estimate
from training.evaluation.result import HEATWARD, EvaluationResult, MeanResult, Number, Result
from training.evaluation.tables import blank_table

__all__ = ["Adaptation", "Measured", "Side", "side_of", "table"]


class Measured(Result):
    """What one detector makes of one attack, or the mean of all."""

    label: str
    images: int
    auroc: Number
    tpr: dict[float, Number]
    """Share flagged, by false-positive rate."""
    recovered: Number
    """Labels found back."""


class Side(Result):
    """A detector on the new classifier."""

    attacks: tuple[Measured, ...]
    """The last rows are their means, one for each way in which they arrive."""
    false_positives: dict[float, Number]
    """Share of clean images flagged, by the rate that was asked for."""


class Adaptation(Result):
    """What came of it."""

    format: Literal["heatward-adaptation"] = "heatward-adaptation"
    schema_version: int = 1
    bundle: str
    digest: str
    parent: str
    """Digest of the old bundle."""
    classifier: str
    """Fingerprint of the new classifier."""
    images: dict[str, int]
    before: Side | None
    """The old detector as it was; None where the new classifier's evidence has other shapes."""
    after: Side


def side_of(found: EvaluationResult) -> Side:
    """Our detector's part of an evaluation."""
    rows = []
    for row in found.rows:
        own = row.detectors[HEATWARD]
        if row.label != "worst":
            way = f"{AT}{row.delivery}" if isinstance(row, MeanResult) and row.delivery else ""
            numbers = {"auroc": own.auroc, "tpr": own.tpr, "recovered": own.recovered.top1}
            rows.append(Measured(label=row.label + way, images=own.tpr[found.rates[0]].count, **numbers))
    return Side(attacks=tuple(rows), false_positives=found.false_positives[HEATWARD][CLEAN])


def table(found: Adaptation) -> Table:
    """One row an attack: the old detector and the adapted one."""
    rates = tuple(found.after.false_positives)
    title = "On the new classifier: the old detector as it was → the adapted one"
    drawn = blank_table(
        title, "attack", numbers=("n", "AUROC", *(f"flagged at {rate:g}" for rate in rates), "recovered")
    )
    old: Mapping[str, Measured] = {row.label: row for row in found.before.attacks} if found.before else {}
    for row in found.after.attacks:
        one = old.get(row.label)
        cells = [_change(one.auroc if one else None, row.auroc, "{:.3f}")]
        cells += [_change(one.tpr[rate] if one else None, row.tpr[rate], "{:.1%}") for rate in rates]
        cells.append(_change(one.recovered if one else None, row.recovered, "{:.1%}"))
        drawn.add_row(row.label, str(row.images), *cells)
    alarms = found.before.false_positives if found.before else {}
    cells = [_change(alarms.get(rate), each, "{:.1%}") for rate, each in found.after.false_positives.items()]
    drawn.add_row("clean images", str(found.after.false_positives[rates[0]].count), "", *cells, "")
    return drawn


def _change(before: Estimate | None, after: Estimate, shown: str) -> str:
    now = _shown(after, shown)
    return now if before is None else f"{_shown(before, shown)} → {now}"


def _shown(found: Estimate, shown: str) -> str:
    return "–" if math.isnan(found.value) else shown.format(found.value)

"""Qualities of detectors side by side: a `Column` for each, as Markdown tables in which the best stands out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.metrics import Estimate

__all__ = ["Column", "losses", "markdown"]

OURS = "heatward"


@dataclass(frozen=True)
class Column:
    table: str
    name: str
    form: str  # of a cell, e.g. ".1%"
    lower_is_better: bool
    cells: Mapping[str, Estimate]  # by detector

    def text(self, name: str) -> str:
        return self._format(self.cells[name].value)

    def with_interval(self, name: str) -> str:
        cell = self.cells[name]
        between = "" if math.isnan(cell.low) else f" [{self._format(cell.low)}, {self._format(cell.high)}]"
        return f"{name} {self.text(name)}{between}"

    def _format(self, value: float) -> str:
        return "–" if math.isnan(value) else format(value, self.form).replace("%", " %")

    @property
    def best(self) -> list[str]:
        """Detectors that nobody beats by a printed digit."""
        values = {name: cell.value for name, cell in self.cells.items() if not math.isnan(cell.value)}
        if not values:
            return []
        first = (min if self.lower_is_better else max)(values, key=values.__getitem__)
        return [name for name in values if self.text(name) == self.text(first)]


def markdown(columns: Sequence[Column]) -> str:
    """One table for each kind of column, one row per detector."""
    parts = []
    for table in dict.fromkeys(column.table for column in columns):
        chosen = [column for column in columns if column.table == table]
        rows = [[table, *(column.name for column in chosen)], ["---", *("--:" for _ in chosen)]]
        for name in dict.fromkeys(name for column in columns for name in column.cells):
            cells = [f"**{column.text(name)}**" if name in column.best else column.text(name) for column in chosen]
            if set(cells) != {"–"}:  # it offers no such thing
                rows.append([name, *cells])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def losses(columns: Sequence[Column]) -> list[str]:
    return [
        f"- {column.table}, {column.name}: {column.with_interval(OURS)}; "
        f"best: {', '.join(column.with_interval(name) for name in column.best)}"
        for column in columns
        if column.best and OURS not in column.best
    ]

"""A red team's result as tables: a `RedTeamResult` in, rich tables out."""

from __future__ import annotations

import math

from rich.table import Table

from training.evaluation.metrics import Estimate
from training.evaluation.tables import blank_table, percent
from training.redteam.result import Line, RedTeamResult
from training.redteam.settings import ALL

__all__ = ["all_tables", "check_table", "cost_table", "method_table", "rejection_table", "row_table", "size_of"]


def size_of(line: Line) -> str:
    """`8/255`, or `L2 0.5`."""
    return f"{line.eps * 255:g}/255" if line.norm == "Linf" else f"L2 {line.eps:g}"


def half_of(line: Line) -> str:
    """The budget at which Tramèr's bound speaks of a classifier."""
    return f"{line.eps * 255 / 2:g}/255" if line.norm == "Linf" else f"L2 {line.eps / 2:g}"


def row_table(result: RedTeamResult) -> Table:
    """Who gets through: a line a row and budget, each image by whichever method succeeds."""
    rates = [f"SR@{100 * rate:g}" for rate in result.rates]
    at = f"@{100 * result.rate:g}"
    numbers = ("fooled", *rates, f"robust{at}", "so, at ε/2", f"recovered{at}")
    table = blank_table("Who gets through", "row", "ε", numbers=numbers)
    for line in result.lines:
        if line.method == ALL:
            robust = line.robust[result.rate]
            table.add_row(
                str(line.row),
                size_of(line),
                _bracketed(line.fooled),
                *(_bracketed(line.success[rate]) for rate in result.rates),
                _bracketed(robust),
                f"{100 * robust.value:.0f} % at {half_of(line)}",
                _bracketed(line.recovered[result.rate]),
            )
    return table


def method_table(result: RedTeamResult) -> Table:
    """Every method by itself."""
    rates = [f"SR@{100 * rate:g}" for rate in result.rates]
    numbers = ("budget", "fooled", *rates, "change (median)")
    table = blank_table("Every method", "row", "method", "ε", numbers=numbers)
    for line in result.lines:
        if line.method != ALL:
            table.add_row(
                str(line.row),
                line.method,
                size_of(line),
                f"{line.steps} × {line.restarts}" if line.restarts > 1 else str(line.steps),
                _bracketed(line.fooled),
                *(_bracketed(line.success[rate]) for rate in result.rates),
                _distance(line),
            )
    return table


def cost_table(result: RedTeamResult) -> Table:
    """What one success costs, with heatward and without."""
    numbers = ("questions", "without heatward", "times", "CPU-seconds", "without heatward")
    table = blank_table("What one success costs the attacker", "row", "method", "ε", numbers=numbers)
    for line in result.lines:
        if line.method == ALL or not line.row:
            continue
        other = result.line(0, "pgd" if line.row in (1, 4) else line.method, line.norm, line.eps)
        queries, cpu_s = (other.queries, other.cpu_s) if other else (None, None)
        table.add_row(
            str(line.row),
            line.method,
            size_of(line),
            _number(line.queries, 0),
            _number(queries, 0),
            _ratio(line.queries, queries),
            _number(line.cpu_s, 2),
            _number(cpu_s, 2),
        )
    return table


def rejection_table(result: RedTeamResult) -> Table:
    """What is flagged although it is right."""
    rates = [f"flagged at {100 * rate:g} %" for rate in result.rates]
    table = blank_table("What is flagged although its label is right", "images", numbers=rates)
    names = {"noise": "noise of 1/255", "pgd": "PGD of 1/255 that did not fool"}
    for name, found in {"as they are": result.clean_flagged, **result.rejected}.items():
        table.add_row(names.get(name, name), *(percent(found[rate]) for rate in result.rates))
    return table


def check_table(result: RedTeamResult) -> Table:
    """Whether the attacks work at all."""
    table = blank_table("Does the red team attack at all?", "check", "", "what was found", numbers=())
    for check in result.checks:
        table.add_row(check.name, check.told, check.said)
    return table


def all_tables(result: RedTeamResult) -> list[Table]:
    """Every table, in the order of the page."""
    return [each(result) for each in (row_table, cost_table, rejection_table, check_table, method_table)]


def _bracketed(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _number(estimate: Estimate | None, places: int) -> str:
    if estimate is None:
        return "–"
    if math.isnan(estimate.value):
        return "no success"
    low, high = (f"{bound:.{places}f}" if math.isfinite(bound) else "∞" for bound in (estimate.low, estimate.high))
    return f"{estimate.value:.{places}f} [{low}, {high}]"


def _ratio(one: Estimate | None, other: Estimate | None) -> str:
    if one is None or other is None or math.isnan(one.value) or math.isnan(other.value):
        return "–"
    return f"{one.value / other.value:.1f}"


def _distance(line: Line) -> str:
    if line.distance is None:
        return "–"
    return f"{line.distance * 255:.1f}/255" if line.norm == "Linf" else f"{line.distance:.2f}"

"""One self-contained HTML file: the folder of a red team in; *who gets through, at what cost*, out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from detector.files import write_file
from forensics.drawing import Axes, Figure, mpl
from forensics.pages import Grid, data_url, render
from forensics.report.plots import svg
from forensics.theme import THEME
from training.evaluation.metrics import Estimate
from training.redteam.result import Line, RedTeamResult
from training.redteam.settings import ALL
from training.redteam.tables import check_table, cost_table, method_table, rejection_table, row_table, size_of

__all__ = ["write_red_team"]

TEMPLATE = Path(__file__).with_name("templates") / "redteam.html"
COLOURS = {0: THEME["muted"], 1: "#7a5ea8", 2: "#3a6ea5", 3: "#c77f12", 4: THEME["alarm"]}
"""Of rows."""
TOLD = {"passed": "calm", "failed": "alarm", "not run": "doubt"}
PANELS = 3
"""Side by side."""
MOST_CURVES = 9


def write_red_team(folder: Path) -> Path:
    """Write `redteam.html` into the folder of a red team, whole or not at all; returns its path.

    Raises:
        DataError: There is no result, or another heatward wrote it.
    """
    result = RedTeamResult.read(folder)
    page = render(
        TEMPLATE,
        title="heatward redteam",
        result=result,
        headline=_headline(result),
        accuracy=f"{result.accuracy.value:.1%} of {result.accuracy.count}",
        plots={
            "success": _picture(_success(result)),
            "cost": _picture(_cost(result)),
            "curves": _picture(_curves(result)),
        },
        tables={
            "rows": Grid.of(row_table(result)),
            "cost": Grid.of(cost_table(result)),
            "rejected": Grid.of(rejection_table(result)),
            "checks": Grid.of(check_table(result)),
            "methods": Grid.of(method_table(result)),
        },
        colours=TOLD,
    )
    path = folder / "redteam.html"
    write_file(path, page.encode())
    return path


def _headline(result: RedTeamResult) -> str:
    """The worst row that was run, at the smallest budget at which at least half gets through."""
    every = [line for line in result.lines if line.method == ALL and line.norm == "Linf"]
    if not every:
        return "Nobody attacked"
    row = max(line.row for line in every)
    own = sorted((line for line in every if line.row == row), key=lambda line: line.eps)
    shown = next((line for line in own if line.success[result.rate].value >= 0.5), own[-1])
    share = shown.success[result.rate]
    access = next(each.access for each in result.rows if each.row == row)
    return f"{share.value:.0%} get through at {size_of(shown)}: {access}"


def _success(result: RedTeamResult) -> Figure | None:
    """Share that fools and is not flagged over the budget, a line a row; dotted, without heatward."""
    every = [line for line in result.lines if line.method == ALL and line.norm == "Linf"]
    if not every:
        return None
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(result.rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, result.rates, strict=True):
        for row in sorted({line.row for line in every}):
            own = sorted((line for line in every if line.row == row), key=lambda line: line.eps)
            _band(axes, own, [line.success[rate] for line in own], COLOURS[row], f"row {row}")
            if row == 0:
                sizes, fooled = [line.eps * 255 for line in own], [line.fooled.value for line in own]
                axes.plot(sizes, fooled, ":", color=COLOURS[row], lw=1.4, label="row 0, flags ignored")
        axes.set_title(f"flagged at {rate:.0%}", fontsize=9, color=THEME["ink"])
        axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="L∞ budget, of 255")
        sizes = sorted({line.eps * 255 for line in every})
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        _tidy(axes)
    panels[0].set_ylabel("fools and is not flagged", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def _band(axes: Axes, lines: Sequence[Line], values: Sequence[Estimate], colour: str, name: str) -> None:
    sizes = [line.eps * 255 for line in lines]
    axes.plot(sizes, [each.value for each in values], "o-", color=colour, lw=1.7, ms=4, label=name)
    axes.fill_between(
        sizes, [each.low for each in values], [each.high for each in values], color=colour, alpha=0.12, lw=0
    )


def _cost(result: RedTeamResult) -> Figure | None:
    """Questions for one success, a line a method and budget; hollow, without heatward."""
    rows: list[tuple[Line, Line | None]] = []
    for line in result.lines:
        if line.row and line.method != ALL and line.queries is not None:
            name = "pgd" if line.row in (1, 4) else line.method
            other = result.line(0, name, line.norm, line.eps)
            known = [each for each in (line.queries, other and other.queries) if each and math.isfinite(each.value)]
            if known:
                rows.append((line, other))
    if not rows:
        return None
    figure = Figure(figsize=(7.6, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (line, other) in enumerate(rows):
        colour = COLOURS[line.row]
        for estimate, face in ((line.queries, colour), (other and other.queries, THEME["paper"])):
            if estimate and math.isfinite(estimate.value):
                axes.plot([estimate.value], [place], "o", color=colour, mfc=face, ms=6)
        if line.queries is not None and not math.isfinite(line.queries.value):
            axes.annotate(
                "no success", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, ha="left", va="center"
            )
    names = [f"row {line.row}, {line.method}, {size_of(line)}" for line, _ in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="questions for one success; hollow: without heatward")
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    _tidy(axes)
    return figure


def _curves(result: RedTeamResult) -> Figure | None:
    """The attackers' losses, those who know the most first."""
    every = [line for line in result.lines if len(line.curve) > 1]
    shown = sorted(every, key=lambda line: (-line.row, line.method, line.eps))[:MOST_CURVES]
    if not shown:
        return None
    height = -(-len(shown) // PANELS)
    figure = Figure(figsize=(7.6, 1.7 * height), layout="constrained")
    panels = figure.subplots(height, PANELS, squeeze=False).flatten()
    for axes, line in zip(panels, shown, strict=False):
        axes.plot(line.curve, color=COLOURS[line.row], lw=1.4)
        axes.set_title(
            f"row {line.row}, {line.method}, {size_of(line)}", fontsize=8, color=THEME["ink"], parse_math=False
        )
        _tidy(axes)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(THEME["edge"])
    axes.tick_params(colors=THEME["muted"], labelcolor=THEME["ink"], labelsize=8)
    axes.xaxis.label.set(color=THEME["ink"], fontsize=9)
    axes.grid(color=THEME["edge"], lw=0.5, alpha=0.7)
    axes.set_axisbelow(True)


def _picture(figure: Figure | None) -> str:
    return "" if figure is None else data_url(svg(figure), "svg+xml")

"""One self-contained HTML file: the folder of a retraining in; what became of the challenger, and why, out."""

from __future__ import annotations

from pathlib import Path

from detector.files import write_file
from forensics.drawing import Figure, mpl
from forensics.pages import Grid, data_url, render
from forensics.pictures import draw_rows, figure_png
from forensics.report.plots import svg
from forensics.theme import THEME
from training.evaluation.examples import read_examples
from training.retraining.comparison import Comparison, table
from training.retraining.shown import GAINED, LOST

__all__ = ["write_comparison"]

TEMPLATE = Path(__file__).with_name("templates") / "comparison.html"
COLOURS = {"better": THEME["calm"], "no worse": THEME["ink"], "worse": THEME["alarm"], "too few images": THEME["doubt"]}


def write_comparison(folder: Path) -> Path:
    """Write `comparison.html` into the folder of a retraining, whole or not at all; returns its path.

    Raises:
        DataError: There is no comparison, or another heatward wrote it.
    """
    comparison, shown = Comparison.read(folder), read_examples(folder)
    judged = f"Flagged when p ≤ {comparison.rate:g}."
    pictures = {
        name: data_url(figure_png(draw_rows(shown[name], note=judged)), "png") if shown[name] else ""
        for name in (GAINED, LOST)
    }
    page = render(
        TEMPLATE,
        title="heatward retrain",
        comparison=comparison,
        differences=data_url(svg(_differences(comparison)), "svg+xml"),
        table=Grid.of(table(comparison)),
        pictures=pictures,
    )
    path = folder / "comparison.html"
    write_file(path, page.encode())
    return path


def _differences(comparison: Comparison) -> Figure:
    """A line a label: the difference with its interval, and the loss that must be excluded."""
    rows = comparison.rows
    figure = Figure(figsize=(7.6, 1.1 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        colour = COLOURS[row.told]
        axes.plot([row.low, row.high], [place, place], color=colour, lw=1.6)
        axes.plot([row.difference], [place], "o", color=colour, ms=5)
    axes.axvline(0, color=THEME["edge"], lw=1, zorder=0)
    axes.set_yticks(range(len(rows)), [f"{row.label}, n {row.images}" for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("flagged by the challenger, less flagged by the champion")
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure

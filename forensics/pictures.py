"""The picture a newcomer understands at a glance: one row an image, from the clean photograph to the verdict.

`Example` values flow in; a matplotlib figure flows out, as PNG bytes too. No global state of matplotlib is touched, so
it may be used from any thread.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.heatmaps.overlay import overlay
from detector.text import printable
from forensics.drawing import Axes, FancyBboxPatch, Figure
from forensics.theme import THEME
from training.evaluation.examples import Example

__all__ = ["draw_rows", "figure_png"]

COLUMNS = ("clean photograph", "image judged", "difference ×10", "looked at before", "looks at now", "verdict")
WIDTHS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.5)
CELL_INCHES = 1.62


def draw_rows(rows: Sequence[Example], *, title: str = "", note: str = "") -> Figure:
    """Draw the grid: columns clean, sent, difference x10, heatmap before, heatmap after, verdict."""
    gap, left, top, bottom = 0.1, 1.2, 0.92 if title else 0.42, 0.42 if note else 0.12
    width = left + CELL_INCHES * sum(WIDTHS) + gap * len(WIDTHS)
    step = CELL_INCHES + 0.42  # a cell and the caption under it
    height = top + step * len(rows) + bottom
    figure = Figure(figsize=(width, height), facecolor=THEME["paper"])

    def place(column: int, row: int) -> Axes:
        x = left + CELL_INCHES * sum(WIDTHS[:column]) + gap * column
        y = height - top - step * row - CELL_INCHES
        size = (CELL_INCHES * WIDTHS[column] / width, CELL_INCHES / height)
        axes = figure.add_axes((x / width, y / height, *size))
        axes.set_axis_off()
        return axes

    if title:
        figure.text(0.16 / width, 1 - 0.36 / height, title, size=15, weight="bold", color=THEME["ink"], va="center")
    for at, row in enumerate(rows):
        y = height - top - step * at - CELL_INCHES / 2
        figure.text(
            0.16 / width, y / height, row.title.replace(" ", "\n"), size=12, weight="bold",
            color=THEME["ink"], va="center", linespacing=1.35,
        )  # fmt: skip
        cells = [place(column, at) for column in range(len(COLUMNS))]
        if at == 0:
            for axes, name in zip(cells, COLUMNS, strict=True):
                axes.set_title(name, size=10.5, color=THEME["muted"], pad=7)
        _photograph(cells[0], row.clean, row.label_before, row.probability_before, fooled=False)
        fooled = row.label_after != row.label_before
        _photograph(cells[1], row.sent, row.label_after, row.probability_after, fooled=fooled)
        _show(cells[2], _difference(row.clean, row.sent))
        _show(cells[3], overlay(row.clean, row.heat_before), f"for “{row.label_before}”")
        _show(cells[4], overlay(row.sent, row.heat_after), f"for “{row.label_after}”")
        _verdict(cells[5], row)
    if note:
        figure.text(0.16 / width, 0.2 / height, note, size=9, color=THEME["muted"], va="center")
    return figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes, without time stamps: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _show(axes: Axes, image: NDArray[np.uint8], caption: str = "", color: str = THEME["muted"]) -> None:
    axes.imshow(image, interpolation="nearest", aspect="equal")
    if caption:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "top"}
        axes.text(0.5, -0.045, printable(caption), parse_math=False, size=10, color=color, **place)


def _photograph(axes: Axes, image: NDArray[np.uint8], label: str, probability: float, *, fooled: bool) -> None:
    color = THEME["alarm"] if fooled else THEME["ink"]
    _show(axes, image, f"{'seen as ' if fooled else ''}{label} · {probability:.0%}", color)


def _difference(clean: NDArray[np.uint8], sent: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ten times the change, around mid-grey: grey means untouched."""
    change = sent.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + 10 * change, 0, 255).astype(np.uint8)


def _verdict(axes: Axes, row: Example) -> None:
    """A badge, how sure, and what the image showed before."""
    right = row.flagged == row.attacked
    color = THEME["alarm"] if row.flagged else THEME["calm"]
    axes.set(xlim=(0, WIDTHS[-1]), ylim=(0, 1))
    box = "round,pad=0.02,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((0.14, 0.64), 1.14, 0.2, boxstyle=box, facecolor=color, edgecolor="none"))
    badge = "ATTACKED" if row.flagged else "NO ATTACK"
    axes.text(0.71, 0.735, badge, ha="center", va="center", size=13, weight="bold", color=THEME["paper"])
    p_value = f"p = {row.p_value:.3f}" if row.p_value >= 0.001 else f"p = {row.p_value:.4f}"
    axes.text(0.71, 0.5, p_value, ha="center", va="center", size=10.5, color=THEME["muted"])
    if not right:
        missed = "missed" if row.attacked else "false alarm"
        axes.text(0.71, 0.3, missed, ha="center", va="center", size=11, weight="bold", color=THEME["alarm"])
    elif not row.attacked:
        axes.text(0.71, 0.3, "rightly left alone", ha="center", va="center", size=10.5, color=THEME["calm"])
    elif row.recovered:
        hit = row.recovered == row.label_before
        color = THEME["calm"] if hit else THEME["alarm"]
        axes.text(0.71, 0.31, "before the attack:", ha="center", va="center", size=10, color=THEME["muted"])
        said = f"{printable(row.recovered)} {'✓' if hit else '✗'}"
        axes.text(0.71, 0.15, said, parse_math=False, ha="center", va="center", size=13, weight="bold", color=color)

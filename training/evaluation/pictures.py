"""The picture a newcomer understands at a glance: one row an image, from the clean photograph to the verdict.

`Row` values flow in; a matplotlib figure flows out, as PNG bytes or a file. Nothing here touches matplotlib's global
state, so it may be used from any thread.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.text import printable
from training.drawing import Axes, FancyBboxPatch, Figure, colormaps

__all__ = ["PALETTE", "Row", "draw_rows", "png"]

PALETTE = {
    "ink": "#1b2330",
    "muted": "#6b7686",
    "line": "#d9dee6",
    "alarm": "#c62f3b",
    "calm": "#23805a",
    "paper": "#ffffff",
}
COLUMNS = ("clean photograph", "image judged", "difference ×10", "looked at before", "looks at now", "verdict")
WIDTHS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.5)
CELL_INCHES = 1.62
HEAT = colormaps["inferno"]


@dataclass(frozen=True)
class Row:
    """One image's story."""

    title: str
    """What was done to it, e.g. `PGD 8/255`."""
    clean: NDArray[np.uint8]  # (H, W, 3)
    sent: NDArray[np.uint8]  # (H, W, 3)
    heat_before: NDArray[np.float32]  # (g, g), signed, of the label predicted for the clean image
    heat_after: NDArray[np.float32]  # (g, g), signed, of the label predicted for the sent image
    label_before: str
    label_after: str
    probability_before: float
    probability_after: float
    flagged: bool
    p_value: float
    attacked: bool
    recovered: str = ""
    """The label found back; shown for attacked images that were flagged."""


def draw_rows(rows: Sequence[Row], *, title: str = "", note: str = "") -> Figure:
    """Draw the grid: columns clean, sent, difference x10, heatmap before, heatmap after, verdict."""
    gap, left, top, bottom = 0.1, 1.12, 0.92 if title else 0.42, 0.42 if note else 0.12
    width = left + CELL_INCHES * sum(WIDTHS) + gap * len(WIDTHS)
    step = CELL_INCHES + 0.42  # a cell and the caption under it
    height = top + step * len(rows) + bottom
    figure = Figure(figsize=(width, height), facecolor=PALETTE["paper"])

    def place(column: int, row: int) -> Axes:
        x = left + CELL_INCHES * sum(WIDTHS[:column]) + gap * column
        y = height - top - step * row - CELL_INCHES
        size = (CELL_INCHES * WIDTHS[column] / width, CELL_INCHES / height)
        axes = figure.add_axes((x / width, y / height, *size))
        axes.set_axis_off()
        return axes

    if title:
        figure.text(0.16 / width, 1 - 0.36 / height, title, size=15, weight="bold", color=PALETTE["ink"], va="center")
    for at, row in enumerate(rows):
        y = height - top - step * at - CELL_INCHES / 2
        figure.text(
            0.16 / width, y / height, row.title.replace(" ", "\n"), size=12, weight="bold",
            color=PALETTE["ink"], va="center", linespacing=1.35,
        )  # fmt: skip
        cells = [place(column, at) for column in range(len(COLUMNS))]
        if at == 0:
            for axes, name in zip(cells, COLUMNS, strict=True):
                axes.set_title(name, size=10.5, color=PALETTE["muted"], pad=7)
        _photograph(cells[0], row.clean, row.label_before, row.probability_before, fooled=False)
        fooled = row.label_after != row.label_before
        _photograph(cells[1], row.sent, row.label_after, row.probability_after, fooled=fooled)
        _show(cells[2], _difference(row.clean, row.sent))
        _show(cells[3], _overlay(row.clean, row.heat_before), f"for “{row.label_before}”")
        _show(cells[4], _overlay(row.sent, row.heat_after), f"for “{row.label_after}”")
        _verdict(cells[5], row)
    if note:
        figure.text(0.16 / width, 0.2 / height, note, size=9, color=PALETTE["muted"], va="center")
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes, without time stamps: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _show(axes: Axes, image: NDArray[np.uint8], caption: str = "", color: str = PALETTE["muted"]) -> None:
    axes.imshow(image, interpolation="nearest", aspect="equal")
    if caption:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "top"}
        axes.text(0.5, -0.045, printable(caption), parse_math=False, size=10, color=color, **place)


def _photograph(axes: Axes, image: NDArray[np.uint8], label: str, probability: float, *, fooled: bool) -> None:
    color = PALETTE["alarm"] if fooled else PALETTE["ink"]
    _show(axes, image, f"{'seen as ' if fooled else ''}{label} · {probability:.0%}", color)


def _difference(clean: NDArray[np.uint8], sent: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ten times the change, around mid-grey: grey means untouched."""
    change = sent.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + 10 * change, 0, 255).astype(np.uint8)


def _overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], side: int = 160) -> NDArray[np.uint8]:
    """The image in grey under its evidence in favour, scaled to its own maximum (for the eye only)."""
    favour = np.maximum(heat, 0)
    favour = favour / max(float(favour.max()), 1e-12)
    smooth = Image.fromarray(favour.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)[..., None]  # (side, side, 1)
    grey = np.asarray(Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.NEAREST)) / 255
    warm = HEAT(0.25 + 0.7 * strength[..., 0])[..., :3]
    cover = 0.15 + 0.7 * strength
    mixed: NDArray[np.uint8] = (255 * (0.75 * grey[..., None] * (1 - cover) + warm * cover)).astype(np.uint8)
    return mixed


def _verdict(axes: Axes, row: Row) -> None:
    """A badge, how sure, and what the image showed before."""
    right = row.flagged == row.attacked
    color = PALETTE["alarm"] if row.flagged else PALETTE["calm"]
    axes.set(xlim=(0, WIDTHS[-1]), ylim=(0, 1))
    box = "round,pad=0.02,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((0.14, 0.64), 1.14, 0.2, boxstyle=box, facecolor=color, edgecolor="none"))
    badge = "ATTACKED" if row.flagged else "NO ATTACK"
    axes.text(0.71, 0.735, badge, ha="center", va="center", size=13, weight="bold", color=PALETTE["paper"])
    p_value = f"p = {row.p_value:.3f}" if row.p_value >= 0.001 else f"p = {row.p_value:.4f}"
    axes.text(0.71, 0.5, p_value, ha="center", va="center", size=10.5, color=PALETTE["muted"])
    if not right:
        missed = "missed" if row.attacked else "false alarm"
        axes.text(0.71, 0.3, missed, ha="center", va="center", size=11, weight="bold", color=PALETTE["alarm"])
    elif not row.attacked:
        axes.text(0.71, 0.3, "rightly left alone", ha="center", va="center", size=10.5, color=PALETTE["calm"])
    elif row.recovered:
        hit = row.recovered == row.label_before
        color = PALETTE["calm"] if hit else PALETTE["alarm"]
        axes.text(0.71, 0.31, "before the attack:", ha="center", va="center", size=10, color=PALETTE["muted"])
        said = f"{printable(row.recovered)} {'✓' if hit else '✗'}"
        axes.text(0.71, 0.15, said, parse_math=False, ha="center", va="center", size=13, weight="bold", color=color)

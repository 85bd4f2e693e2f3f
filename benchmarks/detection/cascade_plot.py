"""Cost against TPR: the points of a cascade benchmark in, one picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forensics.drawing import Figure
from forensics.theme import THEME

if TYPE_CHECKING:
    from benchmarks.detection.cascade import Point

__all__ = ["draw"]

RATE = 0.01


def draw(points: Sequence[Point], front: Sequence[Point], named: Mapping[str, Point], path: Path) -> None:
    """Write the picture; its name says the format."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="forward passes per clean image", ylabel="attacks flagged at 1 % (mean, %)")
    alone = [each for each in points if not each.clears]
    pairs = [each for each in points if each.clears]
    for group, colour, marker, label in (
        (pairs, THEME["doubt"], "o", "cascades"),
        (alone, THEME["muted"], "s", "one look at every image"),
    ):
        x, y = [each.cost for each in group], [100 * each.tpr[RATE] for each in group]
        axes.scatter(x, y, s=16, color=colour, marker=marker, label=label, zorder=2)
    x, y = [each.cost for each in front], [100 * each.tpr[RATE] for each in front]
    axes.step(x, y, where="post", color=THEME["calm"], label="nothing cheaper is as good", zorder=3)
    for name, point in named.items():
        place = (point.cost, 100 * point.tpr[RATE])
        axes.scatter(*place, s=60, color=THEME["alarm"], zorder=4)
        axes.annotate(
            f"{name}\n{place[0]:.1f} passes, {place[1]:.1f} %",
            place,
            xytext=(8, -30),
            textcoords="offset points",
            color=THEME["ink"],
            fontsize=9,
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=THEME["line"], zorder=0)
    axes.set_xlim(0, 1.22 * max(each.cost for each in points))
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, dpi=150)

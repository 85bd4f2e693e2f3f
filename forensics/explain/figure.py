"""Explanations in; **one PNG** out, for a ticket or a mail: the verdict, and the page's pictures in a grid.

What is said at length stands on the page.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from forensics.drawing import Figure, FigureCanvasAgg
from forensics.explain import panels, words
from forensics.explain.captions import CAPTIONS
from forensics.explain.compute import Explanation
from forensics.explain.panels import Panel
from forensics.theme import THEME

__all__ = ["DPI", "WIDTH", "draw", "render_png"]

DPI = 120
COLUMNS = 6
CELL, GAP, MARGIN = 1.78, 0.2, 0.4  # inches, as all that follows
WIDTH = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
HEAD, TITLE, STEP = 2.95, 0.42, CELL + 0.42
LETTERS = 26  # under a cell
LEGEND = (
    "From yellow to dark red: little … much. From blue to red: against … for the class. Each map has its own scale."
)

Tile = tuple[Panel | None, str]
Section = tuple[str, list[Tile]]


def render_png(explanations: Sequence[Explanation], *, source: str) -> bytes:
    """All images, one below the other.

    Args:
        explanations: At least one, shown in this order.
        source: One line on the classifier and the bundle.
    """
    drawn = [_pixels(draw(each, source)) for each in explanations]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(drawn)).save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(figure: Figure) -> Panel:
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def draw(explanation: Explanation, source: str) -> Figure:
    """One image's figure, `WIDTH` inches wide, as high as it needs."""
    sections = list(_sections(explanation))
    rows = sum(-(-len(tiles) // COLUMNS) for _, tiles in sections)
    height = HEAD + TITLE * len(sections) + STEP * rows + 0.2
    figure = Figure(figsize=(WIDTH, height), facecolor=THEME["paper"])

    def text(x: float, y: float, said: str, **style: Any) -> None:
        how = {"va": "top", "size": 9, "color": THEME["soft"], "linespacing": 1.35, "parse_math": False, **style}
        figure.text(x / WIDTH, 1 - y / height, said, **how)

    def show(x: float, y: float, panel: Panel) -> None:
        axes = figure.add_axes((x / WIDTH, 1 - (y + CELL) / height, CELL / WIDTH, CELL / height))
        axes.set_axis_off()
        axes.set_anchor("N")
        axes.imshow(panel, interpolation="nearest", aspect="equal")

    verdict, tone = words.badge(explanation)
    left = MARGIN + CELL + 2 * GAP
    text(MARGIN, 0.3, words.shorten(explanation.name, 80), size=15, color=THEME["ink"], weight="bold")
    text(MARGIN, 0.62, words.shorten(source, 150), size=8, color=THEME["muted"])
    show(MARGIN, 0.95, panels.photograph(explanation))
    text(left, 0.95, verdict, size=15, color=THEME[tone], weight="bold")
    text(left, 1.28, "\n".join(_verdict_lines(explanation)), linespacing=1.6)
    y = HEAD
    for title, tiles in sections:
        text(MARGIN, y, title, size=10, color=THEME["ink"], weight="bold")
        y += TITLE - 0.16
        for at, (panel, said) in enumerate(tiles):
            x = MARGIN + at % COLUMNS * (CELL + GAP)
            if panel is not None:
                show(x, y, panel)
            text(x, y + (CELL + 0.04 if panel is not None else 0), said, size=8)
            if at % COLUMNS == COLUMNS - 1 or at == len(tiles) - 1:
                y += STEP
        y += 0.16
    return figure


def _verdict_lines(explanation: Explanation) -> list[str]:
    verdict, classes = explanation.verdict, explanation.classes
    lists = [
        f"{title}: " + ", ".join(f"{words.shorten(classes[label], 24)} {words.percent(share)}" for label, share in some)
        for title, some in (
            ("The classifier says", verdict.top[:3]),
            (words.recovered_words(explanation), verdict.recovered[:3]),
        )
    ]
    numbers = f"p = {verdict.p_value:.4f}     attack score {verdict.attack_score:.2f}"
    said = (words.flagged_words(explanation), words.p_words(explanation), words.tail_words(explanation))
    return [numbers, *filter(None, said), *lists, LEGEND]


def _sections(explanation: Explanation) -> Iterator[Section]:
    """For each class its maps, and the channels that carried it."""
    for at, target in enumerate(explanation.targets):
        tiles: list[Tile] = []
        for result in explanation.methods:
            title = words.shorten(CAPTIONS[result.name].title, LETTERS)
            if result.failure:
                tiles.append((None, textwrap.fill(f"{title}: not computed. {result.failure}", LETTERS, max_lines=10)))
                continue
            blank = " (zero)" if not result.maps[at].any() else ""
            tiles.append((panels.heat(explanation, result, at), title + blank))
            if result.masks:
                tiles.append((panels.masked(explanation, result, at), "the image through it"))
        yield f"Where it looked · {words.shorten(words.target_words(target), 90)}", tiles
    for at, top in enumerate(explanation.channels.top):
        tiles = [(panels.active(explanation, each), f"channel {each.index}   weight {each.weight:.2f}") for each in top]
        yield f"Which channels carried it · {words.shorten(words.kept_words(explanation, at), 110)}", tiles

"""Explanations in; **one PNG** out: what the page shows, a grid of methods × classes below each verdict."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from forensics.explain import words
from forensics.explain.captions import CHANNELS_PAPER, caption
from forensics.explain.colour import enlarge, kind_of, legend_stops, overlay, through
from forensics.explain.compute import Explanation, MethodResult
from forensics.explain.sheet import SOFT, Sheet, letters
from training.drawing import Figure, FigureCanvasAgg
from training.evaluation.pictures import PALETTE

__all__ = ["DPI", "WIDTH", "draw", "render_png"]

DPI = 120
COLUMNS = 6
CELL, GAP, MARGIN = 1.78, 0.2, 0.4  # inches, as all that follows
WIDTH = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
PHOTO = 2.35
HEAD, TITLE, LINE = 4.35, 0.28, 0.155
CHANNEL_ROW = CELL + 0.66
TONES = {"alarm": PALETTE["alarm"], "doubt": "#a86200", "calm": PALETTE["calm"]}
INK, MUTED = PALETTE["ink"], PALETTE["muted"]


def render_png(explanations: Sequence[Explanation], *, source: str) -> bytes:
    """All images, one below the other.

    Args:
        explanations: At least one, shown in this order.
        source: One line on the classifier and the bundle.
    """
    drawn = [_pixels(draw(each, source)) for each in explanations]
    whole = Image.new("RGB", (drawn[0].width, sum(each.height for each in drawn)), PALETTE["paper"])
    top = 0
    for each in drawn:
        whole.paste(each, (0, top))
        top += each.height
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(figure: Figure) -> Image.Image:
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)  # untyped
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw(explanation: Explanation, source: str) -> Figure:
    """One image's figure, `WIDTH` inches wide, as high as it needs."""
    bands, rows = list(_bands(explanation.methods)), len(explanation.targets)
    heights = [_band_height(band, rows) for band in bands]
    channels_height = 0.9 if explanation.channels.failure else 0.85 + rows * CHANNEL_ROW
    sheet = Sheet.blank(WIDTH, HEAD + sum(heights) + channels_height + 0.5)
    _head(sheet, explanation, source)
    y = HEAD
    for band, height in zip(bands, heights, strict=True):
        _band(sheet, y, explanation, band)
        y += height
    _channels(sheet, y, explanation)
    sheet.text(MARGIN, sheet.height - 0.4, words.READING, size=8, color=MUTED)
    return sheet.figure


def _head(sheet: Sheet, explanation: Explanation, source: str) -> None:
    """The image, the verdict, the labels and the legend."""
    verdict, (height, width) = explanation.verdict, explanation.image.shape[:2]
    sheet.text(MARGIN, 0.3, words.shorten(explanation.name, 80), size=15, color=INK, weight="bold")
    sheet.text(MARGIN, 0.62, words.shorten(source, 150), size=8, color=MUTED)
    sheet.picture(MARGIN, 0.95, PHOTO, enlarge(explanation.image))
    sheet.text(MARGIN, 0.99 + PHOTO, f"as the classifier sees it: {width}×{height} pixels", size=8, color=MUTED)
    x = MARGIN + PHOTO + 0.35
    text, tone = words.badge(explanation)
    sheet.badge(x, 0.95, text, TONES[tone])
    numbers = f"p = {words.p_value(explanation)}     attack score {words.attack_score(explanation)}"
    sheet.text(x + 1.75, 1.13, numbers, size=11, color=INK, va="center")
    sheet.text(x, 1.46, f"{words.flagged_words(explanation)} {words.p_words(explanation)}", size=9.5)
    wide = (WIDTH - MARGIN - x - 0.3) / 2
    lists = (
        ("The classifier says", verdict.top, "#cfdcf3"),
        (words.recovered_words(explanation), verdict.recovered[: len(verdict.top)], "#cfe6da"),
    )
    for at, (title, labels, color) in enumerate(lists):
        left = x + at * (wide + 0.3)
        shares = [
            (words.shorten(explanation.classes[label], letters(wide, 8.5) - 8), share, words.percent(share))
            for label, share in labels
        ]
        sheet.text(left, 1.86, title, weight="bold")
        sheet.bars(left, 2.11, wide, shares, color)
    sheet.text(MARGIN, HEAD - 0.47, "Where it looked", size=11, color=INK, weight="bold")
    sheet.scale(MARGIN + 1.6, HEAD - 0.43, legend_stops("signed", 40), "against … for the class")
    sheet.scale(MARGIN + 4.2, HEAD - 0.43, legend_stops("size", 40), "little … much")


def _bands(methods: Sequence[MethodResult]) -> Iterator[list[MethodResult]]:
    """Methods in order, side by side in at most `COLUMNS` cells."""
    band: list[MethodResult] = []
    for result in methods:
        if sum(map(_cells, band)) + _cells(result) > COLUMNS:
            yield band
            band = []
        band.append(result)
    if band:
        yield band


def _cells(result: MethodResult) -> int:
    """A mask takes two: itself, and the image through it."""
    return 2 if result.masks else 1


def _band_height(band: Sequence[MethodResult], rows: int) -> float:
    lines = max(sum(map(len, _caption_lines(result))) for result in band)
    return TITLE + rows * (CELL + _label_height(band)) + lines * LINE + 0.42


def _label_height(band: Sequence[MethodResult]) -> float:
    """Masks have a second line: what they are worth."""
    return 0.42 if any(result.masks for result in band) else 0.3


def _band(sheet: Sheet, y: float, explanation: Explanation, band: Sequence[MethodResult]) -> None:
    """Titles, a row of pictures a class, captions."""
    x = MARGIN
    step = CELL + _label_height(band)
    under = y + TITLE + len(explanation.targets) * step
    for result in band:
        title = words.shorten(caption(result.name).title, 26 * _cells(result))
        sheet.text(x, y + 0.14, title, size=9.5, color=INK, weight="bold", va="baseline")
        if result.failure:
            sheet.box(x, y + TITLE, CELL, CELL, "#f4f5f8")
            failure = textwrap.fill(f"Not computed. {result.failure}", letters(CELL - 0.2, 7.5), max_lines=10)
            sheet.text(x + 0.1, y + TITLE + 0.1, failure, size=7.5)
        else:
            for at in range(len(explanation.targets)):
                _pictures(sheet, x, y + TITLE + at * step, explanation, result, at)
        text, paper = _caption_lines(result)
        sheet.text(x, under, "\n".join(text), size=7.5, color=SOFT)
        sheet.text(x, under + LINE * len(text) + 0.03, "\n".join(paper), size=7.5, color=MUTED)
        x += _cells(result) * (CELL + GAP)


def _pictures(sheet: Sheet, x: float, y: float, explanation: Explanation, result: MethodResult, at: int) -> None:
    """One class's map; for a mask also the image through it and what that part is worth."""
    image, target = explanation.image, explanation.targets[at]
    kind = caption(result.name).kind or kind_of(result.maps[at])
    sheet.picture(x, y, CELL, overlay(image, result.maps[at], kind))
    label = words.shorten(words.target_words(target), 26 * _cells(result))
    blank = " (zero)" if words.is_blank(result, at) else ""
    sheet.text(x, y + CELL + 0.04, label + blank, size=8, color=INK)
    if result.masks:
        mask = result.masks[at]
        sheet.picture(x + CELL + GAP, y, CELL, through(image, mask.shown))
        sheet.text(x, y + CELL + 0.19, words.mask_words(target, mask), size=7.5, color=MUTED)


def _caption_lines(result: MethodResult) -> tuple[list[str], list[str]]:
    """Of the method's caption, and of its paper."""
    said = caption(result.name)
    most = letters(_cells(result) * (CELL + GAP) - GAP, 7.5)
    return textwrap.wrap(said.text, most), textwrap.wrap(words.paper_words(said, result), most)


def _channels(sheet: Sheet, y: float, explanation: Explanation) -> None:
    channels = explanation.channels
    sheet.text(MARGIN, y, "Which channels carried it", size=11, color=INK, weight="bold")
    said = f"Not computed. {channels.failure}"
    if not channels.failure:
        said = f"{words.channel_words(channels, CHANNELS_PAPER)} ({words.seconds_words(channels.seconds)})"
    sheet.text(MARGIN, y + 0.27, textwrap.fill(said, letters(WIDTH - 2 * MARGIN, 8.5), max_lines=3), size=8.5)
    if channels.failure:
        return
    for at, top in enumerate(channels.top):
        line = y + 0.85 + at * CHANNEL_ROW
        sheet.text(MARGIN, line, words.kept_words(explanation, at), size=9, color=INK, weight="bold")
        for column, each in enumerate(top):
            x = MARGIN + column * (CELL + GAP)
            sheet.picture(x, line + 0.24, CELL, overlay(explanation.image, each.activation, "size"))
            sheet.text(x, line + 0.28 + CELL, f"channel {each.index}   weight {each.weight:.2f}", size=8)

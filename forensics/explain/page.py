"""Explanations in; **one self-contained HTML page** out, readable on a phone and on a desk.

Style and pictures lie inside; nothing is fetched and no script runs when the page is opened.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forensics.explain import words
from forensics.explain.captions import CHANNELS_PAPER, Kind, caption
from forensics.explain.colour import enlarge, is_photographic, kind_of, legend_stops, overlay, through
from forensics.explain.compute import Channel, Explanation, MethodResult

__all__ = ["render_page"]

STYLE = Path(__file__).with_name("style.css")


def render_page(explanations: Sequence[Explanation], *, source: str) -> str:
    """The whole document.

    Args:
        explanations: At least one, shown in this order.
        source: One line on the classifier and the bundle.
    """
    title = f"heatward explain: {words.common_name([each.name for each in explanations])}"
    sections = "\n".join(_section(each, number) for number, each in enumerate(explanations, 1))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>\n"
        f'<header><h1>What the classifier looked at</h1><p class="lead">{escape(source)}</p>{_contents(explanations)}'
        f"</header>\n{sections}\n<footer>{escape(words.READING)}</footer>\n</main></body></html>\n"
    )


def _contents(explanations: Sequence[Explanation]) -> str:
    if len(explanations) < 2:
        return ""
    links = (
        f'<a href="#image{number}">{escape(each.name)} · {words.badge(each)[0].lower()}</a>'
        for number, each in enumerate(explanations, 1)
    )
    return f"<nav>{''.join(links)}</nav>"


def _section(explanation: Explanation, number: int) -> str:
    cards = "\n".join(_method(explanation, result) for result in explanation.methods)
    return (
        f'<section id="image{number}"><h2>{escape(explanation.name)}</h2>\n{_top(explanation)}\n'
        f'<h3>Where it looked</h3>\n{_legend()}\n<div class="grid">\n{cards}\n</div>\n'
        f"{_channels(explanation)}</section>"
    )


def _top(explanation: Explanation) -> str:
    """The image, the verdict and the labels."""
    height, width = explanation.image.shape[:2]
    text, tone = words.badge(explanation)
    verdict, classes = explanation.verdict, explanation.classes
    numbers = (
        (words.p_value(explanation), "p-value"),
        (words.attack_score(explanation), "attack score"),
    )
    shown = "".join(f"<div><b>{value}</b>{name}</div>" for value, name in numbers)
    picture = _img(
        explanation,
        enlarge(explanation.image),
        f"{explanation.name}, as the classifier sees it",
        sharp=not is_photographic(explanation.image),
    )
    return (
        f'<div class="top"><figure>{picture}<figcaption>As the classifier sees it: {width}×{height} pixels'
        f'</figcaption></figure><div><div class="badge {tone}">{text}</div>\n'
        f'<div class="numbers">{shown}</div>'
        f"<p>{escape(words.flagged_words(explanation))} {escape(words.p_words(explanation))}</p>\n"
        f'<div class="lists"><div><h4>The classifier says</h4>{_bars(verdict.top, classes)}</div>'
        f"<div><h4>{escape(words.recovered_words(explanation))}</h4>"
        f"{_bars(verdict.recovered[: len(verdict.top)], classes, 'past')}</div></div></div></div>"
    )


def _bars(labels: Sequence[tuple[int, float]], classes: Sequence[str], kind: str = "") -> str:
    return "".join(
        f'<div class="bar {kind}"><i style="width:{100 * share:.1f}%"></i><span>{escape(classes[label])}</span>'
        f"<b>{escape(words.percent(share))}</b></div>"
        for label, share in labels
    )


def _legend() -> str:
    scales = _scale("signed", "against … for the class") + _scale("size", "little … much")
    return f'<div class="legend">{scales}</div>'


def _scale(kind: Kind, text: str) -> str:
    stops = ",".join(legend_stops(kind))
    return f'<span><i style="background:linear-gradient(90deg,{stops})"></i>{escape(text)}</span>'


def _method(explanation: Explanation, result: MethodResult) -> str:
    """A title, a picture (or two, for a mask) a class, a caption: rows that line up with the neighbours'."""
    said, targets = caption(result.name), len(explanation.targets)
    if result.failure:
        pictures = f'<div class="failed" style="grid-row:span {targets}">Not computed. {escape(result.failure)}</div>'
    else:
        pictures = "".join(_pictures(explanation, result, at) for at in range(targets))
    return (
        f'<article class="method{" wide" if result.masks else ""}" style="--rows:{targets + 2}">'
        f"<h4>{escape(said.title)}</h4>{pictures}"
        f'<div class="text"><p>{escape(said.text)}</p><p class="paper">{escape(words.paper_words(said, result))}</p>'
        "</div></article>"
    )


def _pictures(explanation: Explanation, result: MethodResult, at: int) -> str:
    """One class's map; for a mask also the image through it and what that part is worth."""
    target, image, title = explanation.targets[at], explanation.image, caption(result.name).title
    kind = caption(result.name).kind or kind_of(result.maps[at])
    label = f"{target.role}: <b>{escape(target.name)}</b>"
    alt = f"{title} for {words.target_words(target)}"
    blank = " <i>(zero everywhere)</i>" if words.is_blank(result, at) else ""
    map_ = _img(explanation, overlay(image, result.maps[at], kind), alt)
    if not result.masks:
        return f"<figure>{map_}<figcaption>{label}{blank}</figcaption></figure>"
    mask = result.masks[at]
    seen = _img(explanation, through(image, mask.shown), f"{alt}: the image through the mask")
    worth = escape(words.mask_words(target, mask))
    return (
        f'<div class="mask"><figure>{map_}</figure><figure>{seen}</figure>'
        f'<p class="both">{label}{blank}<br><i>{worth}</i></p></div>'
    )


def _channels(explanation: Explanation) -> str:
    channels = explanation.channels
    head = "<h3>Which channels carried it</h3>"
    if channels.failure:
        return f'{head}<div class="failed">Not computed. {escape(channels.failure)}</div>'
    text = f"<p>{escape(words.channel_words(channels, CHANNELS_PAPER))} ({words.seconds_words(channels.seconds)})</p>"
    rows = []
    for at, top in enumerate(channels.top):
        figures = "".join(_channel(explanation, each) for each in top)
        rows.append(f'<p class="row">{escape(words.kept_words(explanation, at))}</p>')
        rows.append(f'<div class="grid channels">{figures}</div>')
    return "\n".join((head, text, *rows))


def _channel(explanation: Explanation, channel: Channel) -> str:
    picture = overlay(explanation.image, channel.activation, "size")
    return (
        f"<figure>{_img(explanation, picture, f'Where channel {channel.index} is active')}"
        f"<figcaption>channel {channel.index} <i>weight {channel.weight:.2f}</i></figcaption></figure>"
    )


def _img(explanation: Explanation, picture: NDArray[np.uint8], alt: str, *, sharp: bool = False) -> str:
    """Lossless where pixels are blocks; else WebP, a fifth of the size."""
    kind, settings = ("webp", {"quality": 90}) if is_photographic(explanation.image) else ("png", {})
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **settings)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{picture.shape[1]}" height="{picture.shape[0]}"'
    return f'<img{" class=sharp" if sharp else ""} {size} alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'

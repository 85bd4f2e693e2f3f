"""Explanations in; **one self-contained HTML page** out, readable on a phone and on a desk.

What stands where: templates/explain.html.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from detector.heatmaps.overlay import is_photographic, legend_stops
from forensics.explain import panels, words
from forensics.explain.captions import CAPTIONS, CHANNELS_PAPER
from forensics.explain.compute import Explanation
from forensics.pages import data_url, render

__all__ = ["render_page"]

TEMPLATE = Path(__file__).with_name("templates") / "explain.html"


@dataclass(frozen=True)
class Picture:
    """A picture that lies inside the page."""

    url: str
    width: int
    height: int


def render_page(explanations: Sequence[Explanation], *, source: str) -> str:
    """The whole document.

    Args:
        explanations: At least one, shown in this order.
        source: One line on the classifier and the bundle.
    """
    return render(
        TEMPLATE,
        title=f"heatward explain: {explanations[0].name if len(explanations) == 1 else f'{len(explanations)} images'}",
        explanations=explanations,
        source=source,
        words=words,
        captions=CAPTIONS,
        channels_paper=CHANNELS_PAPER,
        legend_stops=legend_stops,
        is_photographic=is_photographic,
        photograph=_inside(panels.photograph),
        heat=_inside(panels.heat),
        masked=_inside(panels.masked),
        active=_inside(panels.active),
    )


def _inside(draw: Callable[..., panels.Panel]) -> Callable[..., Picture]:
    """What draws a panel, made to draw a picture inside the page: WebP, a fifth of the size, where no block blurs."""

    def drawn(explanation: Explanation, *given: Any) -> Picture:
        kind, settings = ("webp", {"quality": 90}) if is_photographic(explanation.image) else ("png", {})
        pixels, buffer = draw(explanation, *given), io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **settings)
        return Picture(data_url(buffer.getvalue(), kind), pixels.shape[1], pixels.shape[0])

    return drawn

"""Explanations in; **one self-contained HTML page** out, readable on a phone and on a desk.

What stands where: templates/explain.html. Here its pictures are drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forensics.explain import words
from forensics.explain.captions import CHANNELS_PAPER, caption
from forensics.explain.colour import enlarge, is_photographic, kind_of, legend_stops, overlay, through
from forensics.explain.compute import Channel, Explanation, MethodResult
from training.pages import data_url, render

__all__ = ["render_page"]

TEMPLATE = Path(__file__).with_name("templates") / "explain.html"


@dataclass(frozen=True)
class Picture:
    """A picture that lies inside the page."""

    url: str
    width: int
    height: int
    sharp: bool = False
    """Pixels are blocks, shown as such."""


def render_page(explanations: Sequence[Explanation], *, source: str) -> str:
    """The whole document.

    Args:
        explanations: At least one, shown in this order.
        source: One line on the classifier and the bundle.
    """
    return render(
        TEMPLATE,
        title=f"heatward explain: {words.common_name([each.name for each in explanations])}",
        explanations=explanations,
        source=source,
        words=words,
        caption=caption,
        channels_paper=CHANNELS_PAPER,
        legend_stops=legend_stops,
        photograph=_photograph,
        heat=_heat,
        masked=_masked,
        active=_active,
    )


def _photograph(explanation: Explanation) -> Picture:
    """The image as the classifier sees it."""
    return _picture(explanation, enlarge(explanation.image), sharp=not is_photographic(explanation.image))


def _heat(explanation: Explanation, result: MethodResult, at: int) -> Picture:
    """The map of one target class over the image."""
    kind = caption(result.name).kind or kind_of(result.maps[at])
    return _picture(explanation, overlay(explanation.image, result.maps[at], kind))


def _masked(explanation: Explanation, result: MethodResult, at: int) -> Picture:
    """The image through the mask of one target class."""
    return _picture(explanation, through(explanation.image, result.masks[at].shown))


def _active(explanation: Explanation, channel: Channel) -> Picture:
    """Where a channel is active."""
    return _picture(explanation, overlay(explanation.image, channel.activation, "size"))


def _picture(explanation: Explanation, pixels: NDArray[np.uint8], *, sharp: bool = False) -> Picture:
    """Lossless where pixels are blocks; else WebP, a fifth of the size."""
    kind, settings = ("webp", {"quality": 90}) if is_photographic(explanation.image) else ("png", {})
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return Picture(data_url(buffer.getvalue(), kind), pixels.shape[1], pixels.shape[0], sharp)

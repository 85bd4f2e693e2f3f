"""The pictures of an explanation, (H', W', 3) uint8: what the page and the PNG both show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.heatmaps.overlay import enlarge, overlay, through
from forensics.explain.captions import CAPTIONS
from forensics.explain.compute import Channel, Explanation, MethodResult

__all__ = ["Panel", "active", "heat", "masked", "photograph"]

Panel = NDArray[np.uint8]


def photograph(explanation: Explanation) -> Panel:
    """The image as the classifier sees it."""
    return enlarge(explanation.image)


def heat(explanation: Explanation, result: MethodResult, at: int) -> Panel:
    """The map of one target class over the image."""
    return overlay(explanation.image, result.maps[at], CAPTIONS[result.name].kind)


def masked(explanation: Explanation, result: MethodResult, at: int) -> Panel:
    """The image through the mask of one target class."""
    return through(explanation.image, result.masks[at].shown)


def active(explanation: Explanation, channel: Channel) -> Panel:
    """Where a channel is active."""
    return overlay(explanation.image, channel.activation, "size")

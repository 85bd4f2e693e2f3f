"""What is known of each module's output → **the one layout in which it is read, or none**.

Three rules, the surest first: the maps follow the image; a convolution, or a block of them, keeps (B, D, h, w) where
nothing speaks against it; an output that has the channels and the side of one so known is read as that one is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from detector.classifier.layouts import Axes, Layout
from detector.classifier.places import FITS, FITS_ALONE, Reading

__all__ = ["Sight", "kind", "settled"]

Kind: TypeAlias = tuple[int, tuple[int, int]]
"""Channels and side of maps."""


@dataclass(frozen=True)
class Sight:
    """What was seen of one module's output."""

    shape: tuple[int, ...]
    readings: dict[Layout, Reading | None]
    """By each layout that the shape leaves open: `places.read`, or None where nothing moved."""
    convolution: bool
    """A leaf of the net that works on (B, D, h, w): a convolution, a pooling, a batch norm."""


def settled(sights: Mapping[str, Sight]) -> dict[str, Layout]:
    """Layouts by module, in the order given; modules whose output cannot be read are left out."""
    options = _with_one_grid(sights)
    found = {name: layout for name, open_to in options.items() if (layout := _followed(sights[name], open_to))}
    for name, open_to in options.items():
        layout = next((each for each in open_to if each.axes == "NCHW"), None)
        if name not in found and layout is not None and _is_convolutional(name, layout, sights):
            found[name] = layout
    known = {kind(layout, sights[name].shape) for name, layout in found.items()}
    for name, open_to in options.items():
        beside = [each for each in open_to if kind(each, sights[name].shape) in known]
        if name not in found and beside:
            found[name] = beside[0]
    return {name: found[name] for name in sights if name in found}


def kind(layout: Layout, shape: tuple[int, ...]) -> Kind:
    """Channels and side of the maps of an output."""
    return shape[1 if layout.axes == "NCHW" else -1], layout.side


def _with_one_grid(sights: Mapping[str, Sight]) -> dict[str, list[Layout]]:
    """Layouts that each output may still have: not contradicted, and one grid for all that have as many tokens.

    Tokens of which some contradict a grid and none follows it lie in another order, also where others are silent.
    """
    best: dict[tuple[Axes, int], tuple[float, Layout]] = {}
    for sight in sights.values():
        for layout, reading in sight.readings.items():
            if layout.tokens and reading is not None and _is_clear(reading):
                clearest = best.setdefault((layout.axes, layout.tokens), (0.0, layout))
                best[layout.axes, layout.tokens] = max(clearest, (reading.fit, layout), key=lambda each: each[0])
    grids = {layout for fit, layout in best.values() if fit > (FITS_ALONE if layout.rival else FITS)}
    refuted = {
        layout
        for sight in sights.values()
        for layout, reading in sight.readings.items()
        if layout.tokens and reading is not None and reading.contradicts
    }
    undecided = {
        layout
        for sight in sights.values()
        for layout in sight.readings
        if (layout.axes, layout.tokens) not in best and layout.before + layout.after == 0
    }
    possible = grids | (undecided - refuted)
    return {
        name: [
            layout
            for layout, reading in sight.readings.items()
            if not (reading is not None and reading.contradicts) and layout in possible
        ]
        for name, sight in sights.items()
    }


def _is_clear(reading: Reading) -> bool:
    return reading.follows and not reading.contradicts


def _followed(sight: Sight, open_to: list[Layout]) -> Layout | None:
    passing = {
        layout: reading.fit for layout in open_to if (reading := sight.readings[layout]) is not None and reading.follows
    }
    return max(passing, key=lambda layout: passing[layout], default=None)


def _is_convolutional(name: str, layout: Layout, sights: Mapping[str, Sight]) -> bool:
    """A convolution itself, or a block with one whose maps have this side."""
    inner = name + "."
    return sights[name].convolution or any(
        sight.convolution and other.startswith(inner) and layout.side == sight.shape[2:]
        for other, sight in sights.items()
    )

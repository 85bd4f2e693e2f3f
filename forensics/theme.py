"""The one theme: colours of every page and every figure, by what they are for."""

from __future__ import annotations

__all__ = ["DARK", "THEME"]

THEME = {
    "ink": "#1b2330",
    "soft": "#4a5566",
    "muted": "#6b7686",
    "line": "#e1e5ec",
    "edge": "#d9dee6",
    "paper": "#ffffff",
    "ground": "#f6f7f9",
    "alarm": "#c62f3b",
    "doubt": "#a86200",
    "calm": "#23805a",
}
DARK = {
    "ink": "#e8ecf2",
    "soft": "#b8c1ce",
    "muted": "#929dac",
    "line": "#2c3542",
    "edge": "#384353",
    "paper": "#1a212b",
    "ground": "#11161d",
    "alarm": "#c93a46",
    "doubt": "#a86200",
    "calm": "#23805a",
}
"""The same for pages that follow the system into the dark; figures and what is printed stay light."""

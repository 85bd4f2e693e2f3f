"""The one theme: colours of every page and every figure, by what they are for."""

from __future__ import annotations

__all__ = ["THEME"]

THEME = {
    "ink": "#1b2330",
    "soft": "#4a5566",
    "muted": "#6b7686",
    "line": "#e1e5ec",
    "edge": "#d9dee6",
    "paper": "#ffffff",
    "alarm": "#c62f3b",
    "doubt": "#a86200",
    "calm": "#23805a",
}

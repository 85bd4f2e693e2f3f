"""How much a caller is told of what the detector found. It is what a token, or the server's setting, allows."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Disclosure"]


class Disclosure(StrEnum):
    """By how much it tells; `server/inference/answer.py` holds to it."""

    FULL = "full"
    """All that is known."""
    VERDICT = "verdict"
    """Attacked or not, at one of few false-positive rates."""
    NONE = "none"
    """What the classifier says: the answer looks as if nothing were judged."""

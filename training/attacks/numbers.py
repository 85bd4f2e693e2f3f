"""Parameters of our own attacks: a number as it was written in; the number, or an error that names it, out."""

from __future__ import annotations

import math

from detector.errors import ConfigError

__all__ = ["finite", "whole"]


def whole(name: str, value: float) -> int:
    """The value, if it is a whole number of at least 1.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or value != int(finite(name, value)) or value < 1:
        raise ConfigError(f"{name}: expected a whole number >= 1, got {value!r}")
    return int(value)


def finite(name: str, value: float) -> float:
    """The value, if it is a number.

    Raises:
        ConfigError: It is NaN or infinite.
    """
    if not math.isfinite(value):
        raise ConfigError(f"{name}: expected a number, got {value!r}")
    return value

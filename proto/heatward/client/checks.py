"""An argument as a caller wrote it goes in; the same, of the right type and in range, comes out.

Otherwise one sentence: TypeError or ValueError that names the argument, what was expected and what came.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from numbers import Integral, Real
from typing import Any

from heatward.images import is_pil

__all__ = ["count", "flag", "rate", "remaining", "service", "several_images", "shown", "timeout"]

MOST = 2**32 - 1
SHOWN = 60
SECONDS = "a number of seconds above 0"
MAX_NAME = 127


def timeout(name: str, value: Any) -> float:
    """Seconds, above 0; infinity is as long as it takes."""
    seconds = remaining(name, value)
    if seconds <= 0:
        raise ValueError(f"{name} is {SECONDS}; this is {seconds:g}")
    return seconds


def remaining(name: str, value: Any) -> float:
    """As `timeout`, but what is left of a deadline may be 0, or less."""
    return _number(name, value, SECONDS)


def count(name: str, value: Any) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is a whole number from 1; this is {shown(value)}")
    number = int(value)
    if not 1 <= number <= MOST:
        raise ValueError(f"{name} is a whole number from 1 to {MOST}; this is {shown(number)}")
    return number


def rate(name: str, value: Any) -> float:
    """A share between 0 and 1, exclusive."""
    share = _number(name, value, "a number between 0 and 1, such as 0.01")
    if not 0 < share < 1:
        hint = f": write {share:g} % as {share / 100:g}" if 1 <= share < 100 else ""
        raise ValueError(f"{name} is a number between 0 and 1; this is {share:g}{hint}")
    return share


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that is only taken for it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False; this is {shown(value)}")
    return value


def service(value: Any) -> str:
    """The name of a gRPC service; empty for the server as a whole."""
    expected = "service is a name such as 'heatward.v1.DetectionService', or '' for the server as a whole"
    if not isinstance(value, str):
        raise TypeError(f"{expected}; this is {shown(value)}")
    if not value.isascii() or len(value) > MAX_NAME:
        raise ValueError(f"{expected}, at most {MAX_NAME} ASCII characters; this is {shown(value)}")
    return value


def several_images(images: Any, *, asynchronous: bool = False) -> Any:
    """An iterable of images; one image is none, although many of them can be iterated."""
    shape = getattr(images, "shape", None)
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "read")
    if one or (isinstance(shape, tuple) and len(shape) in (0, 2, 3)) or is_pil(images):
        what = f"an array of shape {shape}" if isinstance(shape, tuple) else _kind(images)
        raise TypeError(
            f"images are a list (or any iterable) of images; this is {what}: for one image write [image], or use"
            " detect(image); for many, an array is (N, height, width, 3)"
        )
    if isinstance(images, Iterable) or hasattr(images, "__getitem__"):
        return images
    if isinstance(images, AsyncIterable):
        if asynchronous:
            return images
        raise TypeError("images are an asynchronous iterable, which only AsyncClient.detect_stream reads")
    raise TypeError(f"images are a list (or any iterable) of images; this is {_kind(images)}")


def shown(value: Any) -> str:
    """`repr`, and no longer than fits into a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _number(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {expected}; this is {shown(value)}")
    if value != value:
        raise ValueError(f"{name} is {expected}; this is nan")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is {expected}; this is {shown(value)}") from None

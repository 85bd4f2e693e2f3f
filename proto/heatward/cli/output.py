"""What the commands print: text of any origin goes in, lines that every terminal and every program can read come out.

Answers go to standard output by `write`, everything about them to standard error by `complain`. Both escape what a
stream cannot show. JSON is plain ASCII, so it is valid whatever the locale.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from heatward.cli.text import printable

__all__ = ["OutputLostError", "complain", "escape_what_cannot_be_shown", "flush", "json_text", "path_text", "write"]

LONGEST_COMPLAINT = 1000
SURROGATES = range(0xD800, 0xE000)


class OutputLostError(Exception):
    """Standard output takes no more, such as on a full disk; the message says why."""


def escape_what_cannot_be_shown() -> None:
    """Standard output and error write characters that their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Prints to standard output, at once.

    Raises:
        BrokenPipeError: The reader has gone.
        OutputLostError: It cannot be written.
    """
    if sys.stdout is None:
        raise OutputLostError("standard output is closed")
    flush(f"{text}\n")


def flush(text: str = "") -> None:
    """As `write`: whatever is in the buffer of standard output, and behind it the text."""
    try:
        if sys.stdout is not None:
            print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputLostError(f"standard output cannot be written: {error.strerror}") from error


def complain(command: str, text: str) -> None:
    """Prints one line to standard error, where there is one."""
    if sys.stderr is not None:  # else print takes standard output
        with contextlib.suppress(OSError):
            print(f"{command}: {printable(text, LONGEST_COMPLAINT)}", file=sys.stderr, flush=True)


def path_text(path: Path) -> str:
    r"""The path in any locale; bytes that are no UTF-8 as \xe9. It may still hold control characters."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def json_text(value: Any, indent: int | None = None) -> str:
    """Valid JSON in ASCII: numbers that are not finite become null."""
    return json.dumps(_sound(value), indent=indent, allow_nan=False)


def _sound(value: Any) -> Any:
    if isinstance(value, dict):
        return {_sound(str(key)): _sound(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and any(ord(c) in SURROGATES for c in value):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value

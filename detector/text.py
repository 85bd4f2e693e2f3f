"""A word from outside → **the same word, fit for a message**: shortened, escaped, beside the known word it resembles.

What a caller or a file sends may be megabytes long, hold escape sequences that steer a terminal, line breaks that fake
a log line, or bytes that are no text. Lengths are cut before anything is compared or repeated.
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Iterable

__all__ = ["LONGEST", "briefly", "first_line", "nearest", "plain", "printable"]

LONGEST = 128
"""Characters of a foreign word that a message repeats."""
LONGEST_ERROR = 300
LONGEST_COMPARED = 64
"""Longer than any name of ours: a longer word is no misspelling of one."""
BYTES = range(0xDC80, 0xDD00)
"""How Python writes bytes of a file name that are no UTF-8 (PEP 383)."""


def printable(text: str, longest: int | None = LONGEST) -> str:
    r"""The text on one line, as it can be shown anywhere: what is no printable character is escaped, like \x1b or \n.

    Args:
        text: From outside.
        longest: Characters of `text` to keep; what is cut shows as "…". None: all.
    """
    cut = longest is not None and len(text) > longest
    kept = text[:longest] if cut else text
    return "".join(c if c.isprintable() else _escaped(c) for c in kept) + "…" * cut


def first_line(error: Exception) -> str:
    """The first line of what an error of a library says, or its kind where it says nothing."""
    return printable((str(error).splitlines() or [type(error).__name__])[0], LONGEST_ERROR)


def briefly(error: Exception) -> str:
    """What an error of a library or of the user's code says, on one line; of a program's traceback the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "TorchScript interpreter" in lines[0]:
        return printable(lines[-1].removeprefix("RuntimeError: "), LONGEST_ERROR)
    return printable(" ".join(lines), LONGEST_ERROR)


def plain(content: bytes) -> bytes:
    """A text file's content as UTF-8 without the byte order mark that some editors put before it.

    Raises:
        ValueError: It has the mark of UTF-16, and is not.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.4) -> str:
    """`; did you mean 'batch_size'?`, or nothing where no known word resembles this one.

    Args:
        word: From outside, of any length.
        known: What would have been right.
        cutoff: How alike they must be, from 0 (always name one) to 1.
    """
    if len(word) > LONGEST_COMPARED:
        return ""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def _escaped(character: str) -> str:
    if ord(character) in BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")

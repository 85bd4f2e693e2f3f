"""Cells of a table go in, lines come out: drawn by rich for a person at a terminal, as plain text for everyone else.

rich comes with the extra `heatward[cli]`. Plain text never changes, because scripts read it: it goes into files and
pipes, to a terminal that knows no colours, where NO_COLOR is set, and wherever rich is not installed.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Columns", "open_console", "width_of"]

GAP = 2
NARROWEST = 8


def open_console() -> Console | None:
    """The terminal of a person; None: plain text is wanted."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console()


class Columns:
    """What the rows of a table share.

    Args:
        widths: Of each column, in columns of a terminal. A person's terminal that is narrower narrows the widest.
        right: The places of those whose cells stand at their right end.
        console: A person's terminal.
    """

    def __init__(self, widths: Sequence[int], *, right: Collection[int] = (), console: Console | None = None) -> None:
        self.console = console
        self._widths, self._right = list(widths), right
        if console is not None:
            while sum(self._widths) + GAP * (len(widths) - 1) > console.width and max(self._widths) > NARROWEST:
                self._widths[self._widths.index(max(self._widths))] -= 1

    def row(self, cells: Sequence[str], styles: Sequence[str] = ()) -> str:
        """The line, or several where a person's terminal is too narrow. Of fewer cells the last takes what is left.

        Args:
            cells: Printable text.
            styles: rich's, for the first cells.
        """
        widths, right = self._widths[: len(cells)], self._right
        if len(cells) < len(self._widths):
            taken = sum(widths[:-1]) + GAP * (len(cells) - 1)
            widths[-1], right = max(1, self.console.width - taken) if self.console else 0, ()
        if self.console is None:
            padded = (_padded(cell, widths[at], at in right) for at, cell in enumerate(cells))
            return (" " * GAP).join(padded).rstrip()

        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, GAP, 0, 0))
        for at, width in enumerate(widths):
            grid.add_column(width=width, justify="right" if at in right else "left", overflow="fold")
        grid.add_row(*(Text(cell, style) for cell, style in zip_longest(cells, styles, fillvalue="")))
        with self.console.capture() as captured:
            self.console.print(grid)
        return captured.get().rstrip("\n")


def width_of(text: str) -> int:
    """Columns of a terminal: East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space

"""How `heatward detect` prints: answers go in, a line each comes out (table or JSON), and a last line of totals.

Progress goes to standard error, and only to a terminal.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatward.cli.columns import Columns, width_of
from heatward.cli.output import json_text, path_text
from heatward.cli.text import printable
from heatward.client.values import Failure, Label, Verdict

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress", "Totals", "answer_columns", "json_line", "table_head", "table_line"]

NAME_WIDTH = 40
LABEL_WIDTH = 20
LONGEST_REASON = 500
REDRAW_S = 0.1
CLEAR_LINE = "\r\x1b[K"


def answer_columns(
    paths: list[Path], console: Console | None = None, *, relied: bool = False, masked: bool = False
) -> Columns:
    """One for the widest of these names, within reason where no terminal folds it; and those of an answer.

    Args:
        paths: Of the images.
        console: A person's terminal.
        relied: Whether the answers say which predictions can be relied on.
        masked: Whether they say which were made by a patch.
    """
    widest = max(map(width_of, ("image", *map(_name, paths))))
    name_width = widest if console else min(NAME_WIDTH, widest)
    widths = [name_width, 8, 8, LABEL_WIDTH + 6, LABEL_WIDTH + 6] + [10, 9] * relied + [8, 7] * masked
    return Columns(widths, right=(2, 5, 7) if relied else (2, 5), console=console)


def table_head(columns: Columns, *, relied: bool = False, masked: bool = False) -> str:
    cells = ["image", "verdict", "p-value", "predicted", "recovered"] + ["error rate", "reliable"] * relied
    cells += ["masked p", "patched"] * masked
    return columns.row(cells, ["bold"] * len(cells))


def table_line(
    path: Path,
    answer: Verdict | Failure,
    columns: Columns,
    discovery: bool | None = None,
    *,
    relied: bool = False,
    masked: bool = False,
) -> str:
    """A row; `discovery` says whether all images together call it attacked, None that each decides for itself."""
    name = _name(path) if columns.console else _cut_left(_name(path), NAME_WIDTH)
    if isinstance(answer, Failure):
        reasons = "; ".join(v.description for v in answer.violations) or answer.message
        reason = f"{printable(answer.code)}: {printable(reasons, LONGEST_REASON)}"
        return columns.row((name, "failed", reason), ("", "yellow"))
    attacked = answer.attacked if discovery is None else discovery
    recovered = _label(answer.recovered[0]) if attacked and answer.recovered else "-"
    verdict, style = ("ATTACKED", "bold red") if attacked else ("clean", "green")
    if attacked is None:
        verdict, style = "not told", "yellow"
    p_value = "-" if answer.p_value is None else f"{answer.p_value:.4f}"
    cells = [name, verdict, p_value, _label(answer.predicted), recovered]
    if relied:
        cells += ["-" if answer.error_rate is None else f"{answer.error_rate:.4f}", "yes" if answer.reliable else "NO"]
    if masked:
        cells += [
            "-" if answer.patch_p_value is None else f"{answer.patch_p_value:.4f}",
            "YES" if answer.patched else "no",
        ]
    return columns.row(cells, ("", style))


def json_line(path: Path, answer: Verdict | Failure, heatmap_file: Path | None, discovery: bool | None = None) -> str:
    """One JSON object: the path, and either the verdict's fields (and `discovery`, if all decide together) or `error`.

    A path that is no UTF-8 has its other bytes escaped in `path`, and is whole in `path_base64`.
    """
    fields: dict[str, Any] = {"path": path_text(path)}
    if os.fsencode(path) != fields["path"].encode():
        fields["path_base64"] = base64.b64encode(os.fsencode(path)).decode()
    if isinstance(answer, Failure):
        fields["error"] = dataclasses.asdict(answer)
        fields["error"].pop("request_id")
    else:
        fields |= dataclasses.asdict(answer)
        for key in ("request_id", "heatmap", "heatmap_png"):
            fields.pop(key)
        if discovery is not None:
            fields["discovery"] = discovery
        if heatmap_file is not None:
            fields["heatmap_file"] = path_text(heatmap_file)
    return json_text(fields)


@dataclasses.dataclass
class Totals:
    """Counts of answers so far."""

    answered: int = 0
    attacked: int = 0
    failed: int = 0
    untold: int = 0
    """Verdicts that the server does not tell."""
    unreliable: int | None = None
    patched: int | None = None
    rate: float | None = None
    false_discovery_rate: float | None = None
    """At which all images together decide which are attacked."""

    def add(self, answer: Verdict | Failure) -> None:
        self.answered += 1
        if isinstance(answer, Failure):
            self.failed += 1
        else:
            self.attacked += bool(answer.attacked)
            self.untold += answer.attacked is None
            self.rate = answer.false_positive_rate
            if answer.reliable is not None:
                self.unreliable = (self.unreliable or 0) + (not answer.reliable)
            if answer.patched is not None:
                self.patched = (self.patched or 0) + answer.patched

    def line(self) -> str:
        text = f"{self.answered} image{'' if self.answered == 1 else 's'}: {self.attacked} attacked"
        if self.false_discovery_rate is not None:
            text += f" (at a false discovery rate of {self.false_discovery_rate * 100:.3g} %)"
        elif self.rate is not None:
            text += f" (at a false-positive rate of {self.rate * 100:.3g} %)"
        if self.untold:
            text += f", {self.untold} not told"
        if self.unreliable is not None:
            text += f", {self.unreliable} not to be relied on"
        if self.patched is not None:
            text += f", {self.patched} patched"
        return text + (f", {self.failed} failed" if self.failed else "")


class Progress:
    """A line on standard error that is drawn over again: how many of how many, how fast, how long still."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        rate = done / (now - self._started)
        left_s = (self._total - done) / rate if rate else 0.0
        self._draw(f"{CLEAR_LINE}{done}/{self._total}  {rate:.0f} images/s  {left_s:.0f} s left")

    def clear(self) -> None:
        self._draw(CLEAR_LINE)

    def _draw(self, text: str) -> None:
        if self._shown:
            with contextlib.suppress(OSError):
                print(text, end="", file=sys.stderr, flush=True)


def _label(label: Label) -> str:
    name = printable(label.name, LABEL_WIDTH) if label.name else f"class {label.index}"
    while width_of(name) > LABEL_WIDTH:
        name = name[:-1]
    return f"{name} {label.probability:.0%}"


def _name(path: Path) -> str:
    return printable(path_text(path), None)


def _cut_left(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    text = text[-(width - 1) :]
    while width_of(text) > width - 1:
        text = text[1:]
    return "…" + text

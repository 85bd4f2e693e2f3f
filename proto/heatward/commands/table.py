"""How `heatward detect` prints: answers go in, a line each comes out (table or JSON), and a last line of totals.

Progress goes to standard error, and only to a terminal.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from heatward.values import Failure, Label, Verdict

__all__ = ["Progress", "Totals", "json_line", "table_head", "table_line"]

NAME_WIDTH = 40
LABEL_WIDTH = 20
REDRAW_S = 0.1
CLEAR_LINE = "\r\x1b[K"


def table_head(name_width: int) -> str:
    return f"{'image':<{name_width}}  {'verdict':<8}  {'p-value':>8}  {'predicted':<{LABEL_WIDTH + 6}}  recovered"


def table_line(path: Path, answer: Verdict | Failure, name_width: int) -> str:
    name = _cut_left(str(path), name_width)
    if isinstance(answer, Failure):
        reasons = "; ".join(v.description for v in answer.violations) or answer.message
        return f"{name:<{name_width}}  {'failed':<8}  {answer.code}: {reasons}"
    verdict = "ATTACKED" if answer.attacked else "clean"
    recovered = _label(answer.recovered[0]) if answer.attacked and answer.recovered else "-"
    predicted = f"{_label(answer.predicted):<{LABEL_WIDTH + 6}}"
    return f"{name:<{name_width}}  {verdict:<8}  {answer.p_value:>8.4f}  {predicted}  {recovered}".rstrip()


def json_line(path: Path, answer: Verdict | Failure, heatmap_file: Path | None) -> str:
    """One JSON object: the path, and either the verdict's fields or `error`."""
    if isinstance(answer, Failure):
        fields: dict[str, Any] = {"path": str(path), "error": dataclasses.asdict(answer)}
        fields["error"].pop("request_id")
    else:
        fields = {"path": str(path), **dataclasses.asdict(answer)}
        for key in ("request_id", "heatmap", "heatmap_png"):
            fields.pop(key)
        if heatmap_file is not None:
            fields["heatmap_file"] = str(heatmap_file)
    return json.dumps(fields, ensure_ascii=False)


@dataclasses.dataclass
class Totals:
    """Counts of answers so far."""

    answered: int = 0
    attacked: int = 0
    failed: int = 0
    rate: float | None = None

    def add(self, answer: Verdict | Failure) -> None:
        self.answered += 1
        if isinstance(answer, Failure):
            self.failed += 1
        else:
            self.attacked += answer.attacked
            self.rate = answer.false_positive_rate

    def line(self) -> str:
        text = f"{self.answered} image{'' if self.answered == 1 else 's'}: {self.attacked} attacked"
        if self.rate is not None:
            text += f" (at a false-positive rate of {self.rate * 100:.3g} %)"
        return text + (f", {self.failed} failed" if self.failed else "")


class Progress:
    """A line on standard error that is drawn over again: how many of how many, how fast, how long still."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if not self._shown or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        rate = done / (now - self._started)
        left_s = (self._total - done) / rate if rate else 0.0
        print(f"{CLEAR_LINE}{done}/{self._total}  {rate:.0f} images/s  {left_s:.0f} s left", end="", file=sys.stderr)
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            print(CLEAR_LINE, end="", file=sys.stderr)
            sys.stderr.flush()


def _label(label: Label) -> str:
    name = label.name or f"class {label.index}"
    return f"{name[:LABEL_WIDTH]} {label.probability:.0%}"


def _cut_left(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-(width - 1) :]

"""The commands `heatward train` and `heatward evaluate`: those of training, and a report of what they measured.

Training leaves numbers and examples as files and draws nothing; the report is drawn from these files, here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training import cli

__all__ = ["evaluate", "train"]


def train(argv: Sequence[str] | None = None) -> int:
    """`heatward train [STAGE] --config FILE`."""
    return cli.train(argv, _draw)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """`heatward evaluate --config FILE [--bundle FILE | --leave-out]`."""
    return cli.evaluate(argv, _draw)


def _draw(folder: Path) -> Path:
    from forensics.report.page import write_report  # matplotlib: only once there is something to draw

    return write_report(folder)

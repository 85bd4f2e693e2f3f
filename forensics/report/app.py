"""The commands `heatward train`, `evaluate`, `redteam` and `retrain`: those of training, and a page of what they found.

Training leaves numbers and examples as files and draws nothing; the report is drawn from these files, here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training import cli
from training.redteam import cli as attackers
from training.retraining import cli as retraining

__all__ = ["evaluate", "redteam", "retrain", "train"]


def train(argv: Sequence[str] | None = None) -> int:
    """`heatward train [STAGE] --config FILE`."""
    return cli.train(argv, _draw)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """`heatward evaluate --config FILE [--bundle FILE | --leave-out]`."""
    return cli.evaluate(argv, _draw)


def redteam(argv: Sequence[str] | None = None) -> int:
    """`heatward redteam BUNDLE --images FOLDER [--quick]`."""
    return attackers.redteam(argv, _draw_red_team)


def retrain(argv: Sequence[str] | None = None) -> int:
    """`heatward retrain --champion STORE --config FILE`."""
    return retraining.retrain(argv, _draw_comparison)


def _draw(folder: Path) -> Path:
    from forensics.report.page import write_report  # matplotlib: only once there is something to draw

    return write_report(folder)


def _draw_comparison(folder: Path) -> Path:
    from forensics.report.comparison import write_comparison

    return write_comparison(folder)


def _draw_red_team(folder: Path) -> Path:
    from forensics.report.redteam import write_red_team

    return write_red_team(folder)

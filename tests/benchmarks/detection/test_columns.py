"""Detectors side by side: the best of a column is the best by what is printed, and what heatward loses is listed."""

from __future__ import annotations

import math

from benchmarks.detection.columns import Column, losses, markdown
from training.evaluation.metrics import Estimate

NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def column(name: str, values: dict[str, float], *, lower: bool = False, table: str = "AUROC") -> Column:
    return Column(table, name, ".2f", lower, {who: Estimate(each, each, each, 9) for who, each in values.items()})


def test_detectors_that_print_the_same_share_the_first_place() -> None:
    assert column("pgd", {"heatward": 0.991, "other": 0.994, "third": 0.98}).best == ["heatward", "other"]
    assert column("clean", {"heatward": 0.06, "other": 0.04}, lower=True).best == ["other"]


def test_a_detector_without_an_answer_is_neither_best_nor_shown() -> None:
    recovered = Column("Recovered", "pgd", ".0%", False, {"heatward": Estimate(0.9, 0.8, 1.0, 9), "other": NOTHING})
    assert recovered.best == ["heatward"]
    assert markdown([recovered]).splitlines() == ["| Recovered | pgd |", "| --- | --: |", "| heatward | **90 %** |"]


def test_losses_are_the_columns_that_heatward_does_not_win() -> None:
    won, lost = column("pgd", {"heatward": 0.99, "other": 0.5}), column("cw", {"heatward": 0.5, "other": 0.99})
    (line,) = losses([won, lost])
    assert "cw" in line and "best: other 0.99" in line

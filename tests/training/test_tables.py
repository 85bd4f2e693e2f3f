"""No figure stands without the number of images it was counted on, and few images look like few."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forensics.report.plots import auroc_plot
from training.evaluation.metrics import Bootstrap, Estimate
from training.evaluation.tables import few, percent, percent_only, share, share_only, size


def estimate(value: float, count: int) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01, count)


@pytest.mark.parametrize(
    ("write", "many", "little"),
    [
        (share, ".968 [.958, .978], n 512", "(.968, n 2)"),
        (share_only, ".968, n 512", "(.968, n 2)"),
        (percent, "96.8 % [95.8, 97.8], n 512", "(96.8 %, n 2)"),
        (percent_only, "96.8 %, n 512", "(96.8 %, n 2)"),
        (size, "0.97, n 512", "(0.97, n 2)"),
    ],
)
def test_every_figure_has_its_count(write: object, many: str, little: str) -> None:
    assert write(estimate(0.968, 512)) == many  # type: ignore[operator]
    assert write(estimate(0.968, 2)) == little  # type: ignore[operator]
    assert write(Estimate(float("nan"), 0, 0, 0)) == "–"  # type: ignore[operator]


def test_a_row_of_few_images_says_so() -> None:
    assert few("pgd", estimate(1.0, 29)) == "pgd (fewer than 30 images: means little)"
    assert few("pgd", estimate(1.0, 30)) == "pgd"


def test_an_auroc_rests_on_the_smaller_side() -> None:
    sources = np.arange(100)
    bootstrap = Bootstrap(sources, resamples=10)
    scores = np.linspace(0, 1, 100)
    assert bootstrap.auroc(scores, sources, scores[:3], sources[:3]).count == 3
    assert bootstrap.auroc(scores[:3], sources[:3], scores, sources).count == 3


def test_plots_name_the_count() -> None:
    found = SimpleNamespace(auroc=estimate(0.9, 17))
    attack = SimpleNamespace(label="pgd", seen=False, detectors={"heatward": found})
    evaluation: Any = SimpleNamespace(attacks=[attack], detectors={"heatward": "heatmap network"})
    (label,) = auroc_plot(evaluation).axes[0].get_yticklabels()
    assert label.get_text() == "pgd (unseen), n 17"

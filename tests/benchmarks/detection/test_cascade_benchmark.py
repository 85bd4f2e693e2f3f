"""Pairs of looks, and which of them nothing cheaper equals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_job import configure, write_source

from benchmarks.detection.cascade import Point, cascaded, front, measured, operating_points
from benchmarks.detection.cascade_plot import draw
from benchmarks.detection.looks import OWN_GLANCE, columns_of
from training.config import CLEAN
from training.evaluation.cost import Cost
from training.evaluation.scores import Scored


def scored(scores: list[float], label: int) -> Scored:
    """Rightly classified images of class 0, attacked to class 1 where the label says so."""
    count = len(scores)
    zeros = np.zeros(count, dtype=np.int64)
    return Scored(
        source=np.arange(count),
        truth=zeros,
        origin=zeros,
        prediction=zeros + label,
        score=np.array(scores),
        recovered=np.tile([label, 2], (count, 1)),
        corrected=zeros + label,
    )


def look(better: float, label: int) -> dict[tuple[str, str], Scored]:
    """Clean images score 0.00 to 0.99 by their number, attacked ones that and `better`."""
    clean = [number / 100 for number in range(100)]
    return {
        ("fit", CLEAN): scored([number / 400 for number in range(400)], 0),
        ("calibrate", CLEAN): scored(clean, 0),
        ("test", CLEAN): scored(clean, 0),
        ("test", "pgd"): scored([each + better for each in clean], label),
    }


def test_a_pair_is_the_second_look_where_the_first_clears_nothing_and_else_below_it() -> None:
    first, second = look(0.4, 1), look(0.9, 0)
    pair = cascaded(first, second, 0.6)["test", "pgd"]
    cleared = pair.score < 0
    assert 15 < cleared.sum() < 25  # attacked images from 0.40 on, cleared below about 0.6
    glance, full = first["test", "pgd"], second["test", "pgd"]
    assert (np.diff(pair.score[cleared]) > 0).all() and (glance.score[cleared] < 0.62).all()
    assert (pair.score[~cleared] == full.score[~cleared]).all()
    assert (pair.recovered[cleared, 0] == 1).all() and (pair.recovered[~cleared, 0] == 0).all()
    assert (cascaded(first, second, 0)["test", "pgd"].score == full.score).all()


def test_a_point_says_what_went_on_and_what_that_costs() -> None:
    said = cascaded(look(0.4, 1), look(0.9, 0), 0.6)
    point = measured(("no view", "all views"), said, 0.6, ["pgd"], Cost(2.5, 10))
    assert 0.35 < point.went_on < 0.45 and 0.75 < point.attacked_went_on < 0.85
    assert point.cost == pytest.approx(2.5 + 10 * point.went_on)
    assert point.tpr[0.01] == point.worst == pytest.approx(float((said["test", "pgd"].score > 0.98).mean()))
    assert point.recovered == pytest.approx(point.attacked_went_on)
    assert point.name == "no view clears 60%, then all views"


def point(cost: float, tpr: float, second: str = "all views", clears: float = 0.5) -> Point:
    rates = {0.01: tpr, 0.05: tpr}
    return Point("no view", second, clears, 0.3, 0.9, cost, rates, tpr, rates, 0.9)


def test_the_front_and_its_operating_points(tmp_path: Path) -> None:
    whole = point(13.5, 0.95, clears=0)
    close, near, cheap, worse = point(5.8, 0.947), point(5.0, 0.93), point(3.4, 0.90), point(6.0, 0.92)
    points = [whole, worse, close, near, cheap]
    assert front(points) == [cheap, near, close, whole]
    assert operating_points(points) == {"economy": cheap, "standard": close, "full": whole}
    assert "economy" not in operating_points([whole, close])
    draw(points, front(points), operating_points(points), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_look_has_its_views_and_the_jobs_own_glance_those_of_the_job(tmp_path: Path) -> None:
    config = configure(write_source(tmp_path, 8), tmp_path, cascade={"clears": 0.5, "views": ["flip"]})
    assert [columns_of(config, look) for look in ("no view", "mirror", "all views")] == [[], [1], [0, 1]]
    assert columns_of(config, OWN_GLANCE) == [1]

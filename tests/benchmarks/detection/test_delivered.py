"""What the benchmark of deliveries counts as flagged and as not relied on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.detection.delivered import COLUMNS, RATES, WRONG, not_relied_on, share, stopped


@dataclass
class Judged:
    p_value: float
    error_rate: float | None
    attack_score: float = 0.0


@pytest.mark.parametrize(("error_rate", "expected"), [(None, True), (WRONG, False), (WRONG + 1e-9, True), (0.0, False)])
def test_a_prediction_is_relied_on_where_the_rate_that_is_borne_is_promised(error_rate: float | None, expected: bool):
    verdict: Any = Judged(1.0, error_rate)
    assert not_relied_on(verdict) is expected


def test_what_is_flagged_or_not_relied_on_counts_each_image_once():
    verdicts: Any = [
        Judged(min(RATES), 1.0, 3.0),
        Judged(0.04, 0.01, 2.0),
        Judged(0.5, None, 2.5),
        Judged(0.5, 0.01, -1.0),
    ]
    assert stopped(verdicts, 2.5) == ["25.0 %", "50.0 %", "50.0 %", "50.0 %", "25.0 %"]
    assert stopped([], 2.5) == [share([])] * 5
    assert len(stopped(verdicts, 2.5)) == len(COLUMNS) - 5  # beside attack, way, still fool, label recovered, images

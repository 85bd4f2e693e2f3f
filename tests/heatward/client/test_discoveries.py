"""Benjamini-Hochberg on conformal p-values: the share of false alarms among alarms is what was asked for."""

from __future__ import annotations

import heatward
import numpy as np
import pytest
from heatward.client.discoveries import discoveries, fewest_discoveries


def test_the_step_up_rule_calls_the_largest_set_that_fits() -> None:
    p_values = [0.01, 0.013, 0.014, 0.19, 0.35, 0.51, 0.63, 0.67, 0.75, 0.81]
    assert discoveries(p_values, 0.1) == [True] * 3 + [False] * 7  # 0.01 is at its bar, the third below 0.03
    assert discoveries(p_values, 0.05) == [True] * 3 + [False] * 7  # the first two are above theirs, the third is not
    assert not any(discoveries(p_values, 0.04))
    assert discoveries([0.04, 0.045, 0.9, 0.048], 0.0641) == [True, True, False, True]
    assert discoveries([], 0.05) == []
    assert heatward.discoveries([0.01], 0.05) == [True]


def test_order_does_not_matter() -> None:
    random = np.random.default_rng(0)
    p_values = random.uniform(0.001, 1, 50) ** 3
    order = random.permutation(50)
    found = discoveries(p_values.tolist(), 0.2)
    assert 0 < sum(found) < 50
    assert discoveries(p_values[order].tolist(), 0.2) == [found[at] for at in order]


@pytest.mark.parametrize(("images", "attacked"), [(200, 2), (200, 20), (200, 100), (200, 0)])
def test_false_alarms_among_discoveries_are_as_few_as_asked_for(images: int, attacked: int) -> None:
    """Simulated: scores of clean images and of a calibration that all images of a batch share."""
    random, rate, runs = np.random.default_rng(7), 0.1, 400
    shares, found = [], []
    for _ in range(runs):
        calibration = np.sort(random.normal(size=999))
        scores = np.concatenate([random.normal(3.0, 1.0, attacked), random.normal(size=images - attacked)])
        p_values = (1 + 999 - np.searchsorted(calibration, scores)) / 1000
        called = np.array(discoveries(p_values.tolist(), rate))
        shares.append(called[attacked:].sum() / max(1, called.sum()))
        found.append(called[:attacked].mean() if attacked else 0.0)
    promised = rate * (images - attacked) / images
    assert np.mean(shares) <= promised + 3 * np.std(shares) / runs**0.5
    if attacked >= 20:
        assert np.mean(found) > 0.5


def test_where_p_values_end_it_says_how_many_must_be_attacked() -> None:
    assert fewest_discoveries(1000, 0.05, 0.001) == 20
    few = [0.001] * 19 + [0.9] * 981
    assert not any(discoveries(few, 0.05))
    assert sum(discoveries([0.001] * 20 + [0.9] * 980, 0.05)) == 20
    assert fewest_discoveries(10, 0.05, 0.001) == 1


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan"), 5])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValueError, match="false_discovery_rate is a number between 0 and 1"):
        discoveries([0.5], rate)


@pytest.mark.parametrize("value", [0.0, 1.1, -1.0, float("nan")])
def test_what_is_no_p_value_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a p-value lies above 0"):
        discoveries([0.5, value], 0.05)

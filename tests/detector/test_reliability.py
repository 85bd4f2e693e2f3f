"""The promise a caller buys: of predictions accepted at 5 %, at most 5 % are wrong, for 19 calibrations of 20."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detector.errors import BundleDamagedError, CalibrationError
from detector.scoring.reliability import CONFIDENCE, Reliability, levels_of, upper_bounds
from detector.scoring.risk import RiskHead

PASSES_ON = RiskHead(*(torch.tensor(each, dtype=torch.float64) for each in ([0.0], [1.0], [1.0, 0.0])))
LEVELS = torch.arange(1, 20, dtype=torch.float64) / 20  # of risks drawn from [0, 1]
DRAWS, COUNT = 1_500, 200


def drawn(generator: torch.Generator, count: int, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Risks, uniform in [0, 1], and whether a prediction of that risk was wrong; `chance` (1001,) by risk."""
    risks = torch.rand(count, generator=generator, dtype=torch.float64)
    wrong = torch.rand(count, generator=generator, dtype=torch.float64) < chance[(risks * 1000).long()]
    return risks, wrong


@pytest.fixture(scope="module")
def bounds() -> Tensor:
    """(41, COUNT + 1) `upper_bounds` of every pair that the simulations meet, so that each is computed once."""
    wrong, accepted = torch.meshgrid(torch.arange(41), torch.arange(COUNT + 1), indexing="ij")
    return upper_bounds(wrong.flatten(), wrong.maximum(accepted).flatten(), (1 - CONFIDENCE) / 2).view(wrong.shape)


def broken(chance: Tensor, rate: float) -> float:
    """How often more than `rate` of the accepted predictions are wrong, over calibrations of `COUNT` images."""
    truly = chance[:1000].cumsum(0) / torch.arange(1, 1001)  # error rate where risks below k/1000 are accepted
    generator = torch.Generator().manual_seed(0)
    failures = 0
    for _ in range(DRAWS):
        found = Reliability.fit(PASSES_ON, LEVELS, *drawn(generator, COUNT, chance))
        accepted = LEVELS[found.error_rates <= rate]
        failures += bool(len(accepted) and float(truly[round(float(accepted[-1]) * 1000) - 1]) > rate)
    return failures / DRAWS


SLOPE = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.mark.parametrize(
    ("chance", "rate"),
    [
        (torch.full((1001,), 0.1001, dtype=torch.float64), 0.1),  # the risk says nothing, and the rate is just missed
        (0.2 * SLOPE, 0.05),  # true at the middle, exceeded right above
        (0.05 + 0.25 * (SLOPE - 0.5).abs(), 0.08),  # riskiest at both ends: the order of risks is wrong
    ],
)
def test_the_promise_is_broken_by_at_most_one_calibration_in_twenty(
    chance: Tensor, rate: float, bounds: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_up(wrong: Tensor, accepted: Tensor, miss: float) -> Tensor:
        assert miss == pytest.approx((1 - CONFIDENCE) / 2)  # two sequences share what may go wrong
        return bounds[wrong, accepted]

    monkeypatch.setattr("detector.scoring.reliability.upper_bounds", looked_up)
    noise = 3 * (0.05 * 0.95 / DRAWS) ** 0.5
    assert broken(chance, rate) <= 1 - CONFIDENCE + noise


def test_a_promise_without_a_bound_would_be_broken_by_every_other_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: rates as counted, without the binomial test, do not keep the promise."""
    monkeypatch.setattr("detector.scoring.reliability.upper_bounds", lambda wrong, accepted, miss: wrong / accepted)
    assert broken(torch.full((1001,), 0.1001, dtype=torch.float64), 0.1) > 0.4


def test_what_a_perfect_risk_accepts_is_nearly_all_that_is_right() -> None:
    """The price of the promise is small: 10 % wrong, told perfectly; at 2 % nearly all right ones are accepted."""
    chance = (SLOPE > 0.9).double()
    found = Reliability.fit(PASSES_ON, LEVELS, *drawn(torch.Generator().manual_seed(0), 1000, chance))
    assert float(LEVELS[found.error_rates <= 0.02][-1]) == pytest.approx(0.9)
    assert found.smallest_rate <= 0.01


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    """Tables: none of 299 → 1 %, at 95 % confidence; 3 of 500 → 1.743 % at 97.5 %; all wrong or none seen → 1."""
    found = upper_bounds(torch.tensor([0, 5, 0]), torch.tensor([299, 5, 0]), 0.05)
    assert found.tolist() == pytest.approx([1 - 0.05 ** (1 / 299), 1, 1])
    assert float(upper_bounds(torch.tensor([3]), torch.tensor([500]), 0.025)) == pytest.approx(0.0174337, abs=1e-6)


def test_a_riskier_prediction_never_has_a_smaller_rate_and_the_riskiest_none() -> None:
    risks, wrong = drawn(torch.Generator().manual_seed(1), 500, 0.1 * SLOPE)
    found = Reliability.fit(PASSES_ON, LEVELS, risks, wrong)
    rates = found.of_risk(torch.linspace(-1, 2, 300, dtype=torch.float64))
    assert bool((rates.diff() >= 0).all()) and bool((rates > 0).all())
    assert float(rates[-1]) == 1 and float(found.of_risk(torch.tensor([torch.nan]))) == 1
    assert float(rates[0]) == found.smallest_rate < 0.1


def test_levels_are_percentiles_and_ties_are_one_level() -> None:
    assert levels_of(torch.arange(101.0).flip(0)).tolist() == list(range(1, 100))
    assert levels_of(torch.ones(50)).tolist() == [1]


def test_the_head_finds_what_tells_wrong_from_right_and_is_the_same_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    wrong = torch.rand(2000, generator=generator, dtype=torch.float64) < (2 * found[:, 1] - 1).sigmoid()
    weight = torch.ones(2000)
    head = RiskHead.fit(5 + 10 * found, wrong, weight)
    assert head.weights.tolist() == pytest.approx([0, 2, 0, -1], abs=0.25)
    assert torch.equal(head.weights, RiskHead.fit(5 + 10 * found, wrong, weight).weights)
    heavier = RiskHead.fit(5 + 10 * found, wrong, 7 * weight)  # their scale is of no account
    assert heavier.weights.tolist() == pytest.approx(head.weights.tolist())


def test_a_weight_counts_as_so_many_rows() -> None:
    found = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = found[:, 0] + found[:, 1] ** 2 > 1
    twice = RiskHead.fit(found.repeat(2, 1), wrong.repeat(2), torch.ones(600))
    weighted = RiskHead.fit(found[:200], wrong[:200], torch.ones(200))
    light = RiskHead.fit(found, wrong, torch.cat([torch.ones(200), torch.full((100,), 1e-9)]))
    assert light.mean.tolist() == pytest.approx(weighted.mean.tolist(), abs=1e-6)
    assert twice.mean.tolist() == pytest.approx(found.mean(0).tolist())


@pytest.mark.parametrize("wrong", [torch.zeros(9), torch.ones(9), torch.zeros(0)])
def test_a_head_needs_right_and_wrong_predictions(wrong: Tensor) -> None:
    with pytest.raises(CalibrationError, match="right and wrong predictions"):
        RiskHead.fit(torch.rand(len(wrong), 2, dtype=torch.float64), wrong, torch.ones(len(wrong)))


def test_risks_that_are_not_finite_calibrate_nothing() -> None:
    with pytest.raises(CalibrationError, match="1 of them NaN"):
        Reliability.fit(PASSES_ON, LEVELS, torch.tensor([0.5, torch.nan]), torch.tensor([True, False]))


def test_it_comes_back_from_its_tensors_and_damage_is_told() -> None:
    found = Reliability.fit(PASSES_ON, LEVELS, *drawn(torch.Generator().manual_seed(0), 300, 0.1 * SLOPE))
    tensors = found.tensors()
    again = Reliability.from_tensors(tensors)
    assert torch.equal(again.error_rates, found.error_rates) and torch.equal(again.head.weights, found.head.weights)
    for name, wrong in (
        ("levels", found.levels.flip(0)),
        ("levels", found.levels[1:]),
        ("error_rates", found.error_rates * 50),
        ("error_rates", torch.zeros(19)),
        ("weights", torch.tensor([torch.nan, 0])),
        ("mean", torch.zeros(2)),
    ):
        with pytest.raises(BundleDamagedError, match="reliability is damaged"):
            Reliability.from_tensors(tensors | {name: wrong.double()})
    with pytest.raises(BundleDamagedError, match="lacks 'levels'"):
        Reliability.from_tensors({name: each for name, each in tensors.items() if name != "levels"})

"""A floor under the witness's answer: how it is measured, what it does to a score, and which way an attacker goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from random_evidence import evidence_of
from torch import Tensor

from detector.errors import BundleDamagedError
from detector.evidence import Evidence
from detector.scoring.floor import HALVINGS, WITNESS, Floor, unsupported
from detector.scoring.network import (
    EvidenceShape,
    HeatmapNetwork,
    NetworkSettings,
    ScoreSettings,
    ensemble_weights,
    score,
)

LOG2 = math.log(2)


def said(log_probability: Tensor) -> Evidence:
    """Evidence in which the witness gives the predictions these log-probabilities (B,)."""
    evidence = evidence_of(len(log_probability), 4, 4)
    answers = evidence.groups[WITNESS].clone()
    answers[:, 0] = log_probability[:, None]
    return replace(evidence, groups={**evidence.groups, WITNESS: answers})


def usual() -> Floor:
    """Fitted on a thousand images whose −log P are evenly spread from 0 to 1."""
    floor = Floor()
    floor.fit(said(-torch.linspace(0, 1, 1001)))
    return floor


def network_with(evidence: Evidence, **settings: float) -> HeatmapNetwork:
    torch.manual_seed(0)
    sizes = NetworkSettings(width=16, token=8, heads=2, ensemble=1, score=ScoreSettings(**settings))
    network = HeatmapNetwork(EvidenceShape.of(evidence), 3, sizes)
    network.fit_scales(evidence)
    network.fit_usual(evidence, evidence)
    return network.eval()


def test_each_halving_of_the_clean_images_is_one_step() -> None:
    shares = torch.tensor([0.5, 0.25, 0.125, 1 / 256])
    found = usual()(said(-(1 - shares)))
    torch.testing.assert_close(found, LOG2 * torch.tensor([0.0, 1, 2, HALVINGS - 1]).double(), rtol=1e-4, atol=1e-4)


def test_it_grows_without_a_step_and_beyond_what_was_seen() -> None:
    doubts = torch.linspace(0.3, 1.5, 400)
    found = usual()(said(-doubts))
    assert (found[doubts <= 0.5] == 0).all()
    assert (found[doubts > 0.51].diff() > 0).all()
    assert float(found.diff().abs().max()) < 1  # 1.2 / 400 of a doubt is nowhere a jump
    assert float(found[-1]) > float(usual()(said(-torch.ones(1)))[0])


def test_both_passes_of_the_witness_count() -> None:
    evidence = said(torch.zeros(2))
    evidence.groups[WITNESS][1, 0, 1] = -1.8  # it knows the image, not its mirror image
    torch.testing.assert_close(unsupported(evidence), torch.tensor([0.0, 0.9]))


def test_before_a_fit_and_among_equal_images_it_is_finite() -> None:
    assert (Floor()(said(-torch.rand(5))) == 0).all()
    floor = Floor()
    floor.fit(said(torch.zeros(30)))
    found = floor(said(torch.tensor([0.0, -0.5])))
    assert found.isfinite().all() and float(found[0]) == 0 and float(found[1]) > 0


def test_the_greater_counts() -> None:
    evidence = evidence_of(40, 4, 4)
    without, with_it = network_with(evidence), network_with(evidence, floor_weight=0.7)
    assert without.floor is None and with_it.floor is not None
    plain, beside = score([without], evidence)[0], 0.7 * with_it.floor(evidence)
    assert 0 < int((plain > beside).sum()) < 40
    assert torch.equal(score([with_it], evidence)[0], torch.maximum(plain, beside))


def test_an_attacker_goes_down_both_where_they_are_close() -> None:
    evidence = said(-torch.linspace(0, 3, 40))
    network = network_with(evidence, floor_weight=0.7)
    assert network.floor is not None
    answers = evidence.groups[WITNESS].clone().requires_grad_()
    logits = evidence.logits.clone().requires_grad_()
    leaf = replace(evidence, logits=logits, groups={**evidence.groups, WITNESS: answers})
    found, _ = score([network], leaf)
    torch.testing.assert_close(found.detach(), score([network], evidence)[0])  # no value is another one
    (through_floor,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    beside = 0.7 * network.floor(leaf).detach()
    decides = beside > found.detach() - 1e-9
    assert 0 < int(decides.sum()) < 40
    # where the floor decides, the networks still pull: `logits` are read by them alone
    assert (through_floor[decides] != 0).any(dim=1).all()
    (gradient,) = torch.autograd.grad(found.sum(), answers)
    assert (gradient[decides, 0].sum(1) < 0).all()


def test_it_is_stored_once_and_read_back() -> None:
    evidence = evidence_of(40, 4, 4)
    members = [network_with(evidence, floor_weight=0.7) for _ in range(2)]
    weights = ensemble_weights(members)
    assert [name for name in weights if "floor" in name] == ["floor.clean"]
    settings = NetworkSettings(width=16, token=8, heads=2, ensemble=2, score=ScoreSettings(floor_weight=0.7))
    again = HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, settings, weights)
    assert again[0].floor is again[1].floor
    torch.testing.assert_close(score(again, evidence)[0], score(members, evidence)[0], rtol=1e-2, atol=1e-2)


def test_without_it_settings_are_written_as_before() -> None:
    assert "floor_weight" not in ScoreSettings().model_dump()
    assert ScoreSettings(floor_weight=0.5).model_dump()["floor_weight"] == 0.5
    with pytest.raises(ValueError, match="floor_weight"):
        ScoreSettings(floor_weight=-1)


@pytest.mark.parametrize("name", ["floor_weight", "novelty_weight", "margin_share"])
def test_a_weight_that_would_make_scores_infinite_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}\n.*less than or equal to 1000000"):
        ScoreSettings.model_validate({name: 1e308})


@pytest.mark.parametrize("made", [lambda table: table.flip(0), lambda table: table + math.inf])
def test_a_table_that_is_none_is_refused(made: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(BundleDamagedError, match=r"floor\.clean: expected 8 ascending finite numbers"):
        read_back({"floor.clean": made(usual().clean)})


@pytest.mark.parametrize("name", ["floor.clean", "0.encode_rank"])
def test_weights_that_are_nan_are_refused(name: str) -> None:
    with pytest.raises(BundleDamagedError, match=f"{name.removeprefix('0.')} holds NaN"):
        read_back({name: torch.tensor(math.nan)})


def read_back(damaged: dict[str, Tensor]) -> None:
    """Networks from weights of which some are replaced."""
    evidence = evidence_of(40, 4, 4)
    weights = ensemble_weights([network_with(evidence, floor_weight=0.7)])
    weights |= {name: each.expand_as(weights[name]).clone() for name, each in damaged.items()}
    settings = NetworkSettings(width=16, token=8, heads=2, ensemble=1, score=ScoreSettings(floor_weight=0.7))
    HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, settings, weights)

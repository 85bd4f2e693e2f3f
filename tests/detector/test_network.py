from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_evidence import evidence_of

from detector.errors import BundleDamagedError
from detector.evidence import PER_CANDIDATE, PER_IMAGE, Evidence
from detector.scoring.network import (
    EvidenceShape,
    HeatmapNetwork,
    NetworkSettings,
    ScoreSettings,
    ensemble_weights,
    score,
)
from detector.scoring.standardise import Standardise

SETTINGS = NetworkSettings(width=16, token=8, heads=2, ensemble=2)


def network_for(evidence: Evidence, seed: int = 0) -> HeatmapNetwork:
    torch.manual_seed(seed)
    network = HeatmapNetwork(EvidenceShape.of(evidence), 3, SETTINGS)
    network.fit_scales(evidence)
    return network.eval()


@pytest.mark.parametrize(("classes", "candidates"), [(4, 4), (1000, 10)])
def test_any_number_of_classes(classes: int, candidates: int) -> None:
    evidence = evidence_of(5, classes, candidates)
    attack_score, origin = score([network_for(evidence)], evidence)
    assert attack_score.shape == (5,) and bool((attack_score >= 0).all())
    assert origin.shape == (5, candidates)
    torch.testing.assert_close(origin.sum(1), torch.ones(5))


def test_the_order_of_a_batch_does_not_matter() -> None:
    evidence = evidence_of(6, 4, 4)
    network = network_for(evidence)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    straight, origin = score([network], evidence)
    shuffled, origin_shuffled = score([network], evidence[order])
    torch.testing.assert_close(straight[order], shuffled)
    torch.testing.assert_close(origin[order], origin_shuffled)


def test_magnitudes_are_seen() -> None:
    evidence = evidence_of(6, 4, 4)
    network = network_for(evidence)
    louder = replace(evidence, groups={**evidence.groups, "margin.channels": evidence.groups["margin.channels"] * 10})
    assert not torch.allclose(score([network], evidence)[0], score([network], louder)[0], rtol=1e-3)


@pytest.mark.parametrize("name", [*PER_IMAGE, *PER_CANDIDATE])
def test_every_group_is_read(name: str) -> None:
    evidence = evidence_of(6, 4, 4)
    network = network_for(evidence)
    other = replace(evidence, groups={**evidence.groups, name: evidence_of(6, 4, 4, seed=1).groups[name]})
    assert not torch.equal(score([network], evidence)[0], score([network], other)[0])


def test_standardise_tames_outliers_and_keeps_order() -> None:
    values = torch.cat([torch.randn(500, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([[1e6]])])
    layer = Standardise((1,))
    layer.fit(values[:500])
    squashed = layer(values)
    assert squashed[:500].mean().abs() < 0.05 and (squashed[:500].std() - 1).abs() < 0.05
    assert squashed.argmax() == 500 and squashed.max() < 50


def test_an_ensemble_survives_its_weights() -> None:
    evidence = evidence_of(5, 4, 4)
    weights = ensemble_weights([network_for(evidence, 0), network_for(evidence, 1)])
    again = HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, SETTINGS, weights)
    twice = HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, SETTINGS, ensemble_weights(again))
    assert torch.equal(score(again, evidence)[0], score(twice, evidence)[0])


def test_weights_of_another_size_are_damage() -> None:
    evidence = evidence_of(5, 4, 4)
    weights = ensemble_weights([network_for(evidence), network_for(evidence)])
    shape = EvidenceShape.of(evidence)
    other = shape.model_copy(update={"groups": {**shape.groups, "margin.channels": (13,)}})
    with pytest.raises(BundleDamagedError, match="do not fit"):
        HeatmapNetwork.ensemble(other, 3, SETTINGS, weights)


def test_the_ensemble_averages_probabilities_not_scores() -> None:
    evidence = evidence_of(5, 4, 4)
    one, two = network_for(evidence, 0), network_for(evidence, 1)
    clean = [network(evidence).family_logits.double().softmax(1)[:, 0] for network in (one, two)]
    torch.testing.assert_close(score([one, two], evidence)[0], -((clean[0] + clean[1]) / 2).log())


def test_novelty_raises_the_score() -> None:
    evidence = evidence_of(300, 4, 4)
    network = network_for(evidence)
    before = score([network], evidence)[0]
    network.novelty.fit(evidence, evidence)
    raised = score([network], evidence)[0] - before
    torch.testing.assert_close(raised, 0.1 * network.novelty(evidence).double())
    assert bool((raised > 0).any())


def test_the_weight_of_novelty_is_a_setting() -> None:
    evidence = evidence_of(300, 4, 4)
    settings = SETTINGS.model_copy(update={"score": ScoreSettings(novelty_weight=0.5)})
    torch.manual_seed(0)
    network = HeatmapNetwork(EvidenceShape.of(evidence), 3, settings).eval()
    before = score([network], evidence)[0]
    network.novelty.fit(evidence, evidence)
    torch.testing.assert_close(score([network], evidence)[0] - before, 0.5 * network.novelty(evidence).double())


def test_novelty_is_stored_once_and_shared() -> None:
    evidence = evidence_of(300, 4, 4)
    members = [network_for(evidence, 0), network_for(evidence, 1)]
    for member in members:
        member.novelty.fit(evidence, evidence)
    weights = ensemble_weights(members)
    assert [name for name in weights if name.endswith("novelty.clean")] == ["novelty.clean"]
    again = HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, SETTINGS, weights)
    assert again[0].novelty is again[1].novelty
    assert torch.equal(again[1].novelty(evidence), members[0].novelty(evidence))
    with pytest.raises(BundleDamagedError, match=r"novelty\.clean"):
        HeatmapNetwork.ensemble(
            EvidenceShape.of(evidence), 3, SETTINGS, {n: t for n, t in weights.items() if n != "novelty.clean"}
        )

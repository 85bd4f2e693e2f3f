from __future__ import annotations

import pytest
import torch

from detector.errors import BundleDamagedError
from detector.evidence import Evidence
from detector.network import (
    EvidenceShape,
    HeatmapNetwork,
    NetworkSettings,
    Standardise,
    ensemble_weights,
    score,
)

SETTINGS = NetworkSettings(width=16, token=8, heads=2, ensemble=2)


def evidence_of(batch: int, classes: int, candidates: int, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    return Evidence(
        logits=logits,
        candidates=logits.topk(candidates).indices,
        maps=torch.randn(batch, candidates, 2, 4, 4, generator=generator),
        margin_maps=torch.randn(batch, 6, 4, 4, generator=generator),
        class_features=torch.randn(batch, candidates, 5, generator=generator),
        channels=torch.randn(batch, 12, generator=generator),
    )


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
    louder = Evidence(**(evidence.tensors() | {"maps": evidence.maps * 10}))
    assert not torch.allclose(score([network], evidence)[0], score([network], louder)[0], rtol=1e-3)


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
    other = EvidenceShape.of(evidence).model_copy(update={"channels": 13})
    with pytest.raises(BundleDamagedError, match="do not fit"):
        HeatmapNetwork.ensemble(other, 3, SETTINGS, weights)


def test_the_ensemble_averages_probabilities_not_scores() -> None:
    evidence = evidence_of(5, 4, 4)
    one, two = network_for(evidence, 0), network_for(evidence, 1)
    clean = [network(evidence).family_logits.double().softmax(1)[:, 0] for network in (one, two)]
    torch.testing.assert_close(score([one, two], evidence)[0], -((clean[0] + clean[1]) / 2).log())


def witnessed(batch: int, probability: float, seed: int = 0) -> Evidence:
    """Evidence whose witness gives the prediction so much probability, on the image and on its mirror image."""
    evidence = evidence_of(batch, 4, 4, seed)
    features = evidence.class_features.clone()
    features[:, 0, :2] = torch.tensor(probability).log()
    return Evidence(**(evidence.tensors() | {"class_features": features}))


def test_doubt_is_the_witness_and_the_margin() -> None:
    evidence = witnessed(50, 0.25)
    first, second = evidence.logits.softmax(1).topk(2).values.unbind(1)
    torch.testing.assert_close(evidence.doubt, -0.25 - 0.3 * (first - second))
    alone = Evidence(**(evidence.tensors() | {"maps": evidence.maps[:, :, :1]}))  # no witness: no second map
    torch.testing.assert_close(alone.doubt, second - first)


def test_doubt_beyond_that_of_clean_images_raises_the_score() -> None:
    usual, doubtful = witnessed(300, 0.9), witnessed(300, 0.1)
    network = network_for(usual)
    before = score([network], doubtful)[0]
    network.fit_doubt(usual)
    raised = score([network], doubtful)[0] - before
    assert bool((raised > 0).all())
    assert (network.surprise(usual) == 0).double().mean() > 0.75  # most clean images keep their score
    certain = witnessed(300, 1.0)
    assert bool((network.surprise(certain) <= network.surprise(usual)).all())


def test_networks_of_the_first_bundles_know_no_doubt() -> None:
    evidence = witnessed(20, 0.1)
    weights = ensemble_weights([network_for(evidence, 0), network_for(evidence, 1)])
    old = {name: tensor for name, tensor in weights.items() if not name.endswith("clean_doubt")}
    networks = HeatmapNetwork.ensemble(EvidenceShape.of(evidence), 3, SETTINGS, old)
    assert bool((networks[0].surprise(evidence) == 0).all())

"""Evidence about a classifier that shows nothing but answers: the same numbers, less those from inside."""

from __future__ import annotations

from dataclasses import replace

import hidden
import pytest
import tiny
import torch
from random_evidence import evidence_of

from detector.classifier import Classifier, load_classifier
from detector.errors import LayerNotFoundError, NoGradientError
from detector.evidence import Evidence, EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.groups import INSIDE
from detector.heatmaps import class_activation_gradients
from detector.scoring.network import HeatmapNetwork, NetworkSettings, ensemble_weights, score

IMAGES = tiny.images(6, seed=8).images
SETTINGS = EvidenceSettings()


@pytest.fixture(scope="module")
def closed() -> Classifier:
    spec = tiny.SPEC.model_copy(update={"source": "python:hidden:net"})
    return load_classifier(spec, state_dict=hidden.weights(), allow=("hidden",))


@pytest.fixture(scope="module")
def witness() -> Classifier:
    return load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(seed=1), allow=("tiny",))


def from_outside(evidence: Evidence) -> Evidence:
    return replace(evidence, groups={name: each for name, each in evidence.groups.items() if name not in INSIDE})


def test_it_is_the_evidence_of_the_open_net_less_what_is_seen_inside(
    closed: Classifier, witness: Classifier, tiny_classifier: Classifier
) -> None:
    found = EvidenceExtractor(closed, SETTINGS, witness)(IMAGES)
    whole = EvidenceExtractor(tiny_classifier, SETTINGS, witness)(IMAGES)
    assert EvidenceShape.of(found).black_box and not EvidenceShape.of(whole).black_box
    assert list(found.tensors()) == list(from_outside(whole).tensors())
    for name, each in from_outside(whole).tensors().items():
        torch.testing.assert_close(found.tensors()[name], each, rtol=1e-3, atol=1e-4, msg=name)


def test_images_and_views_are_asked_about_together(
    closed: Classifier, witness: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = EvidenceExtractor(closed, SETTINGS.model_copy(update={"forward_batch": 40}), witness)
    sizes: list[int] = []
    answer = closed.module.forward

    def counted(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return answer(images)

    monkeypatch.setattr(closed.module, "forward", counted)
    extractor(IMAGES)
    looks = len(IMAGES) * (1 + len(extractor.views))
    assert sum(sizes) == looks and len(sizes) == -(-looks // 40)


def test_an_open_classifier_may_be_looked_at_from_outside(tiny_classifier: Classifier, witness: Classifier) -> None:
    extractor = EvidenceExtractor(tiny_classifier, SETTINGS, witness, black_box=True)
    assert not set(INSIDE) & set(extractor(IMAGES).groups)


def test_the_heatmap_is_the_witnesses_for_what_the_classifier_predicts(closed: Classifier, witness: Classifier) -> None:
    extractor = EvidenceExtractor(closed, SETTINGS, witness)
    _, heatmaps = extractor.with_heatmap(IMAGES)
    labels = closed(IMAGES).argmax(1, keepdim=True)
    expected = class_activation_gradients(witness, IMAGES, extractor.map_layer, labels).maps[:, 0]
    torch.testing.assert_close(heatmaps, expected, rtol=1e-3, atol=1e-4)


def test_a_witness_that_is_closed_itself_is_occluded(closed: Classifier) -> None:
    extractor = EvidenceExtractor(closed, SETTINGS, closed)
    evidence, heatmaps = extractor.with_heatmap(IMAGES)
    assert heatmaps.shape == (len(IMAGES), 6, 6) and heatmaps.abs().max() > 0
    assert torch.equal(evidence.candidates[:, 0], closed(IMAGES).argmax(1))


def test_without_a_witness_it_is_refused(closed: Classifier, tiny_classifier: Classifier, witness: Classifier) -> None:
    with pytest.raises(NoGradientError, match=r"no gradients.*needs a witness"):
        EvidenceExtractor(closed, SETTINGS)
    with pytest.raises(NoGradientError, match="needs a witness"):
        EvidenceExtractor(tiny_classifier, SETTINGS, black_box=True)
    with pytest.raises(
        NoGradientError, match=r"channel attribution needs: train the bundle again"
    ):  # a bundle of an open one
        EvidenceExtractor(closed, SETTINGS, witness, black_box=False)
    with pytest.raises(LayerNotFoundError, match="leave it empty"):
        EvidenceExtractor(closed, EvidenceSettings(layers=("block1",)), witness)


def test_networks_and_novelty_take_what_there_is() -> None:
    usual, other = from_outside(evidence_of(200, 4, 4)), from_outside(evidence_of(30, 4, 4, seed=1))
    shape, settings = EvidenceShape.of(usual), NetworkSettings(width=16, token=8, heads=2, ensemble=1)
    torch.manual_seed(0)
    network = HeatmapNetwork(shape, 3, settings)
    network.fit_scales(usual)
    network.novelty.fit(usual, usual)
    network.eval()
    scores, origin = score([network], other)
    assert scores.isfinite().all() and origin.shape == (30, 4)
    extreme = {**other.groups, "views.logit": torch.full_like(other.groups["views.logit"], 30.0)}
    assert (network.novelty(replace(other, groups=extreme)) > network.novelty(other)).float().mean() > 0.9
    again = HeatmapNetwork.ensemble(shape, 3, settings, ensemble_weights([network]))
    torch.testing.assert_close(score(again, other)[0], scores, rtol=1e-2, atol=1e-2)

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from detector.classifier import Classifier, load_classifier
from detector.errors import ConfigError, LayerNotFoundError, NoGradientError
from detector.evidence import Evidence, EvidenceExtractor, EvidenceSettings, EvidenceShape
from detector.evidence.extractor import CONSTANTS
from detector.evidence.views import ViewSettings


@pytest.fixture(scope="module")
def extractor(tiny_classifier: Classifier) -> EvidenceExtractor:
    return EvidenceExtractor(tiny_classifier, EvidenceSettings())


def assert_equal(one: Evidence, other: Evidence) -> None:
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, other.tensors()[name], rtol=1e-4, atol=1e-5, msg=name)


def test_an_image_is_judged_alone(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:6]
    assert_equal(extractor(images), Evidence.cat([extractor(image[None]) for image in images]))


def test_two_calls_agree_to_the_bit(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages) -> None:
    first, second = extractor(tiny_images.images[:4]), extractor(tiny_images.images[:4])
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())


def test_small_forward_batches_change_nothing(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:5]
    whole = EvidenceExtractor(tiny_classifier, EvidenceSettings())(images)
    pieces = EvidenceExtractor(tiny_classifier, EvidenceSettings(forward_batch=2))(images)
    assert_equal(whole, pieces)


def test_candidate_zero_is_the_prediction(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages) -> None:
    evidence = extractor(tiny_images.images[:8])
    assert torch.equal(evidence.candidates[:, 0], evidence.logits.argmax(1))
    assert all(sorted(row) == [0, 1, 2, 3] for row in evidence.candidates.tolist())


def test_the_heatmap_that_is_shown_adds_up_to_the_logit(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    # the last block is followed by pooling and one linear layer: activation x gradient is the logit less its bias
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(layers=("block3",)))
    evidence, heatmaps = extractor.with_heatmap(tiny_images.images[:4])
    top = evidence.logits.max(1)
    bias = tiny_classifier.state_dict()["head.bias"][top.indices]
    torch.testing.assert_close(heatmaps.sum((1, 2)), top.values - bias, rtol=1e-3, atol=1e-3)


def test_the_heatmap_that_is_shown_is_fine_enough_and_no_evidence(
    extractor: EvidenceExtractor, tiny_images: tiny.TinyImages
) -> None:
    images = tiny_images.images[:3]
    evidence, heatmaps = extractor.with_heatmap(images)
    assert heatmaps.shape[0] == 3 and min(heatmaps.shape[1:]) >= 6
    assert_equal(evidence, extractor(images))


def test_channels_of_the_margin_add_up_to_the_margin(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    settings = EvidenceSettings(layers=("block3",))
    evidence = EvidenceExtractor(tiny_classifier, settings)(tiny_images.images[:4])
    top2 = evidence.logits.topk(2)
    bias = tiny_classifier.state_dict()["head.bias"][top2.indices]
    margin = (top2.values[:, 0] - bias[:, 0]) - (top2.values[:, 1] - bias[:, 1])
    torch.testing.assert_close(evidence.groups["margin.channels"][:, :16].sum(1), margin, rtol=1e-3, atol=1e-3)


def test_evidence_survives_a_shard(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages, tmp_path: Path) -> None:
    evidence = extractor(tiny_images.images[:2])
    save_file({name: each.contiguous() for name, each in evidence.tensors().items()}, tmp_path / "shard")
    again = Evidence.from_tensors(load_file(tmp_path / "shard") | {"truth": torch.zeros(2)})
    assert list(again.tensors()) == list(evidence.tensors())
    assert_equal(again, evidence)


def test_columns_stand_in_the_order_that_is_asked_for(
    extractor: EvidenceExtractor, tiny_images: tiny.TinyImages
) -> None:
    evidence = extractor(tiny_images.images[:3])
    names = ("views.logit", "witness.logit", "classes.logit")  # without a witness, one of them is absent
    columns = evidence.columns(names)
    logit = evidence.groups["classes.logit"]
    assert torch.equal(columns, torch.cat([evidence.groups["views.logit"], logit], -1))
    assert EvidenceShape.of(evidence).columns(names) == columns.shape[-1]
    stability = evidence.groups["views.stability"]
    assert torch.equal(evidence.columns(["views.stability"]), stability.reshape(3, -1))


def test_a_view_that_changes_nothing_moves_nothing(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    still = ViewSettings(noise=(0.0, 8.0), noise_draws=1, flip=False, shifts=(), blur=False, rescale=())
    groups = EvidenceExtractor(tiny_classifier, EvidenceSettings(views=still))(tiny_images.images[:3]).groups
    cosine, attributed, distance = groups["views.stability"][:, 0].unbind(-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-4)
    torch.testing.assert_close(attributed, torch.ones_like(attributed), rtol=0, atol=1e-4)
    torch.testing.assert_close(distance, torch.zeros_like(distance), rtol=0, atol=1e-3)
    for name in ("views.logit", "views.log_probability"):
        unmoved, moved = groups[name].unbind(-1)
        torch.testing.assert_close(unmoved, torch.zeros_like(unmoved), rtol=0, atol=1e-4)
        assert moved.abs().max() > 1e-2


def test_a_model_without_inner_layers_may_only_be_the_witness(
    tmp_path: Path, tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    network = tiny.net()
    network.load_state_dict(tiny.trained_weights(steps=1))
    program = torch.export.export(
        network.eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "tiny.pt2")
    hidden = load_classifier(tiny.SPEC.model_copy(update={"source": f"export:{tmp_path / 'tiny.pt2'}"}))
    with pytest.raises(NoGradientError, match="inner layers"):
        EvidenceExtractor(hidden, EvidenceSettings())
    evidence = EvidenceExtractor(tiny_classifier, EvidenceSettings(), hidden)(tiny_images.images[:2])
    with pytest.raises(ConfigError, match=r"evidence\.spread"):
        EvidenceExtractor(hidden, EvidenceSettings(spread=True), hidden)
    torch.testing.assert_close(  # as a witness, it is asked for answers only
        evidence.groups["witness.log_probability"][..., 0],
        hidden(tiny_images.images[:2]).log_softmax(1).gather(1, evidence.candidates),
    )


def test_wrong_settings_name_themselves(tiny_classifier: Classifier) -> None:
    with pytest.raises(LayerNotFoundError, match="block9"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(layers=("block1", "block9")))
    nothing = ViewSettings(noise=(), flip=False, shifts=(), blur=False, rescale=())
    with pytest.raises(ConfigError, match="views"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(views=nothing))


# --- the witness


def other(seed: int = 1, **changes: object) -> Classifier:
    spec = tiny.SPEC.model_copy(update=changes)
    return load_classifier(spec, state_dict=tiny.trained_weights(seed=seed), allow=("tiny",))


def test_a_witness_adds_its_groups(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images, settings = tiny_images.images[:5], EvidenceSettings()
    alone = EvidenceExtractor(tiny_classifier, settings)(images)
    witnessed = EvidenceExtractor(tiny_classifier, settings, other())(images)
    assert {name for name in witnessed.groups if name not in alone.groups} == {
        "witness.answer",
        "witness.divergence",
        "witness.log_probability",
        "witness.logit",
        "witness.log_ratio",
    }
    assert all(torch.equal(witnessed.groups[name], group) for name, group in alone.groups.items())
    one_by_one = EvidenceExtractor(tiny_classifier, settings, other())
    assert_equal(witnessed, Evidence.cat([one_by_one(image[None]) for image in images]))


def test_spread_adds_how_unevenly_channels_are_active(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images, witness, layers = tiny_images.images[:5], other(), ("block1", "block2")
    plain = EvidenceExtractor(tiny_classifier, EvidenceSettings(layers=layers), witness)(images)
    asked = EvidenceExtractor(tiny_classifier, EvidenceSettings(layers=layers, spread=True), witness)(images)
    assert set(asked.groups) - set(plain.groups) == {"margin.spread", "witness.channels"}
    assert_equal(plain, asked)
    _, seen = tiny_classifier.activations(images, layers)
    deviations = torch.cat([seen[name].flatten(2).std(2, correction=0) for name in layers], dim=1)
    torch.testing.assert_close(asked.groups["margin.spread"], deviations.detach())
    _, seen = witness.activations(images, witness.depths())
    parts = [part for maps in seen.values() for part in (maps.mean((2, 3)), maps.flatten(2).std(2, correction=0))]
    torch.testing.assert_close(asked.groups["witness.channels"], torch.cat(parts, dim=1).detach())


def test_of_no_images_there_is_evidence_of_the_same_sizes(tiny_classifier: Classifier) -> None:
    settings = EvidenceSettings(spread=True, views=ViewSettings(jpeg=(60,)))
    extractor = EvidenceExtractor(tiny_classifier, settings, other())
    images = tiny.images(1).images
    assert EvidenceShape.of(extractor(images[:0])) == EvidenceShape.of(extractor(images))


def test_settings_that_are_not_used_are_written_as_before(tiny_classifier: Classifier) -> None:
    assert "spread" not in EvidenceSettings().model_dump(mode="json")
    known = CONSTANTS["evidence_groups"]
    assert isinstance(known, list) and known
    assert not {"margin.spread", "witness.channels"}.intersection(map(str, known))
    assert EvidenceSettings.model_validate(EvidenceSettings(spread=True).model_dump(mode="json")).spread


def test_a_caller_without_gradients_gets_the_same(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(), other())
    with torch.no_grad():
        without = extractor(tiny_images.images[:3])
    assert_equal(without, extractor(tiny_images.images[:3]))


def test_the_classifier_as_its_own_witness_agrees(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(), tiny_classifier)
    evidence = extractor(tiny_images.images[:5])
    groups = evidence.groups
    torch.testing.assert_close(groups["witness.logit"], groups["classes.logit"])
    ratio = groups["witness.log_ratio"]
    torch.testing.assert_close(ratio, torch.zeros_like(ratio), rtol=0, atol=1e-5)


def test_a_witness_of_other_classes_is_refused(tiny_classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="same order"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(), other(classes=tuple(reversed(tiny.CLASSES))))


def many(seed: int) -> Classifier:
    """Twenty classes, random weights."""
    spec = tiny.SPEC.model_copy(update={"classes": tuple(f"{n:02}" for n in range(20)), "arguments": {"classes": 20}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_classifier(spec, allow=("tiny",))


def test_among_many_classes_the_witness_proposes_candidates(tiny_images: tiny.TinyImages) -> None:
    images, settings = tiny_images.images[:6], EvidenceSettings(candidates=4, witness_noise=0)
    classifier, witness = many(0), many(1)
    evidence = EvidenceExtractor(classifier, settings, witness)(images)
    votes = (witness(images).softmax(1) + witness(images.flip(-1)).softmax(1)) / 2
    for prediction, candidates, vote in zip(classifier(images).argmax(1), evidence.candidates, votes, strict=True):
        ranked = [int(index) for index in vote.argsort(descending=True) if index != prediction]
        assert candidates.tolist() == [int(prediction), *ranked[:3]]
    torch.testing.assert_close(evidence.logits, classifier(images), rtol=1e-4, atol=1e-4)


def test_among_many_classes_without_a_witness_the_views_propose(tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:6]
    classifier = many(0)
    only_flip = ViewSettings(noise=(), flip=True, shifts=(), blur=False, rescale=())
    evidence = EvidenceExtractor(classifier, EvidenceSettings(candidates=4, views=only_flip))(images)
    votes = classifier(images.flip(-1)).softmax(1)
    for prediction, candidates, vote in zip(classifier(images).argmax(1), evidence.candidates, votes, strict=True):
        ranked = [int(index) for index in vote.argsort(descending=True) if index != prediction]
        assert candidates.tolist() == [int(prediction), *ranked[:3]]


def test_the_witness_sees_the_mirrored_image_under_noise(tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:4]
    still, noisy = (
        EvidenceExtractor(many(0), EvidenceSettings(candidates=4, witness_noise=noise), many(1))(images)
        for noise in (0.0, 16.0)
    )
    name = "witness.log_probability"
    (image, mirrored), (image_again, noisily) = (each.groups[name][:, 0].unbind(1) for each in (still, noisy))
    torch.testing.assert_close(image_again, image)
    assert not torch.allclose(noisily, mirrored, atol=1e-4)

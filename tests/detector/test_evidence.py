from __future__ import annotations

import pytest
import tiny
import torch

from detector.classifier import Classifier, load_classifier
from detector.errors import ConfigError, LayerNotFoundError, NoGradientError
from detector.evidence import Evidence, EvidenceExtractor, EvidenceSettings
from detector.evidence.views import ViewSettings


@pytest.fixture(scope="module")
def extractor(tiny_classifier: Classifier) -> EvidenceExtractor:
    return EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4))


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
    whole = EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4))(images)
    pieces = EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4, forward_batch=2))(images)
    assert_equal(whole, pieces)


def test_candidate_zero_is_the_prediction(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages) -> None:
    evidence = extractor(tiny_images.images[:8])
    assert torch.equal(evidence.candidates[:, 0], evidence.logits.argmax(1))
    assert all(sorted(row) == [0, 1, 2, 3] for row in evidence.candidates.tolist())


def test_class_maps_add_up_to_the_change_of_the_logit(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    # the last block is followed by pooling and one linear layer: activation x gradient is the logit less its bias
    settings = EvidenceSettings(class_layer="block3", layers=("block1", "block3"), grid=4)
    evidence = EvidenceExtractor(tiny_classifier, settings)(tiny_images.images[:4])
    bias = tiny_classifier.state_dict()["head.bias"][evidence.candidates]
    logits = evidence.logits.gather(1, evidence.candidates)
    torch.testing.assert_close(evidence.maps[:, :, 0].sum((2, 3)), logits - bias, rtol=1e-3, atol=1e-3)


def test_channels_of_the_margin_add_up_to_the_margin(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    settings = EvidenceSettings(layers=("block3",), class_layer="block3", grid=4)
    evidence = EvidenceExtractor(tiny_classifier, settings)(tiny_images.images[:4])
    top2 = evidence.logits.topk(2)
    bias = tiny_classifier.state_dict()["head.bias"][top2.indices]
    margin = (top2.values[:, 0] - bias[:, 0]) - (top2.values[:, 1] - bias[:, 1])
    torch.testing.assert_close(evidence.channels[:, :16].sum(1), margin, rtol=1e-3, atol=1e-3)


def test_evidence_survives_a_shard(extractor: EvidenceExtractor, tiny_images: tiny.TinyImages) -> None:
    evidence = extractor(tiny_images.images[:2])
    assert_equal(Evidence.from_tensors(evidence.tensors()), evidence)


def test_a_model_without_inner_layers_is_refused(tmp_path, tiny_classifier: Classifier) -> None:
    network = tiny.net()
    network.load_state_dict(tiny.trained_weights(steps=1))
    program = torch.export.export(
        network.eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "tiny.pt2")
    hidden = load_classifier(tiny.SPEC.model_copy(update={"source": f"export:{tmp_path / 'tiny.pt2'}"}))
    with pytest.raises(NoGradientError, match="inner layers"):
        EvidenceExtractor(hidden, EvidenceSettings())


def test_wrong_settings_name_themselves(tiny_classifier: Classifier) -> None:
    with pytest.raises(LayerNotFoundError, match="class_layer"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(layers=("block1",), class_layer="block9"))
    nothing = ViewSettings(noise=(), flip=False, shifts=(), blur=False, rescale=())
    with pytest.raises(ConfigError, match="views"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(views=nothing))


# --- the witness


def other(seed: int = 1, **changes: object) -> Classifier:
    spec = tiny.SPEC.model_copy(update=changes)
    return load_classifier(spec, state_dict=tiny.trained_weights(seed=seed), allow=("tiny",))


def test_a_witness_adds_its_maps_and_features(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images, settings = tiny_images.images[:5], EvidenceSettings(grid=4)
    alone = EvidenceExtractor(tiny_classifier, settings)(images)
    witnessed = EvidenceExtractor(tiny_classifier, settings, other())(images)
    assert torch.equal(witnessed.maps[:, :, :1], alone.maps)
    assert witnessed.maps.shape[2] == 2
    assert witnessed.class_features.shape[2] == alone.class_features.shape[2] + 5
    assert witnessed.channels.shape[1] == alone.channels.shape[1] + 6
    one_by_one = EvidenceExtractor(tiny_classifier, settings, other())
    assert_equal(witnessed, Evidence.cat([one_by_one(image[None]) for image in images]))


def test_a_caller_without_gradients_gets_the_same(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4), other())
    with torch.no_grad():
        without = extractor(tiny_images.images[:3])
    assert_equal(without, extractor(tiny_images.images[:3]))


def test_the_classifier_as_its_own_witness_agrees(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    extractor = EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4), tiny_classifier)
    evidence = extractor(tiny_images.images[:5])
    torch.testing.assert_close(evidence.maps[:, :, 1], evidence.maps[:, :, 0])
    features = evidence.class_features[..., -5:]  # log p, mirrored log p, centred logit, against the classifier, maps
    torch.testing.assert_close(features[..., 3], torch.zeros_like(features[..., 3]), rtol=0, atol=1e-5)
    torch.testing.assert_close(features[..., 4], torch.ones_like(features[..., 4]), rtol=0, atol=1e-4)


def test_a_witness_of_other_classes_is_refused(tiny_classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="same order"):
        EvidenceExtractor(tiny_classifier, EvidenceSettings(grid=4), other(classes=tuple(reversed(tiny.CLASSES))))


def many(seed: int) -> Classifier:
    """Twenty classes, random weights."""
    spec = tiny.SPEC.model_copy(update={"classes": tuple(f"{n:02}" for n in range(20)), "arguments": {"classes": 20}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_classifier(spec, allow=("tiny",))


def test_among_many_classes_the_witness_proposes_candidates(tiny_images: tiny.TinyImages) -> None:
    images, settings = tiny_images.images[:6], EvidenceSettings(grid=4, candidates=4, witness_noise=0)
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
    evidence = EvidenceExtractor(classifier, EvidenceSettings(grid=4, candidates=4, views=only_flip))(images)
    votes = classifier(images.flip(-1)).softmax(1)
    for prediction, candidates, vote in zip(classifier(images).argmax(1), evidence.candidates, votes, strict=True):
        ranked = [int(index) for index in vote.argsort(descending=True) if index != prediction]
        assert candidates.tolist() == [int(prediction), *ranked[:3]]


def test_the_witness_sees_the_mirrored_image_under_noise(tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:4]
    still, noisy = (
        EvidenceExtractor(many(0), EvidenceSettings(grid=4, candidates=4, witness_noise=noise), many(1))(images)
        for noise in (0.0, 16.0)
    )
    log_witness, log_mirrored = still.class_features[:, 0, -5:-3].unbind(-1)
    torch.testing.assert_close(noisy.class_features[:, 0, -5], log_witness)
    assert not torch.allclose(noisy.class_features[:, 0, -4], log_mirrored, atol=1e-4)

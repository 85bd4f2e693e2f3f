"""`onnx:FILE`: the file's own answers, whatever batch, layout and scores it has; what cannot be used says why."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_bundle import tiny_bundle

from detector.bundle import load_bundle, save_bundle
from detector.classifier import Classifier, Preprocessing, load_classifier
from detector.detector import Detector
from detector.errors import ClassifierSpecError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

FILES = Path(__file__).parents[1] / "support" / "onnx"
IMAGES = tiny.images(10, seed=3)


def loaded(name: str = "tiny.onnx", **changes: Any) -> Classifier:
    return load_classifier(tiny.SPEC.model_copy(update={"source": f"onnx:{FILES / name}", **changes}))


def test_it_knows_the_textures() -> None:
    logits = loaded()(IMAGES.images)
    assert torch.equal(logits.argmax(1), IMAGES.labels)


def test_a_fixed_batch_colours_last_and_probabilities_give_the_same_answers(caplog: pytest.LogCaptureFixture) -> None:
    free = loaded()
    with caplog.at_level(logging.INFO, "heatward"):
        fixed = loaded("tiny-4.onnx")
    assert "batches of 4" in caplog.text and "probabilities" in caplog.text
    for count in (1, 4, 10, 0):  # filled up, as it is, cut and filled up
        some = IMAGES.images[:count]
        torch.testing.assert_close(fixed(some), free(some).log_softmax(1), rtol=1e-4, atol=1e-4)


def test_it_hides_gradients_and_layers_and_says_so() -> None:
    classifier = loaded()
    assert not classifier.differentiable and "opened" in classifier.no_gradient
    assert classifier.layers == () and "opened" in classifier.no_layers


def test_its_threads_are_torchs_own() -> None:
    options = getattr(loaded()._net, "session").get_session_options()  # noqa: B009
    assert options.intra_op_num_threads == torch.get_num_threads() and options.inter_op_num_threads == 1


def test_a_bundle_needs_no_file(tmp_path: Path, tiny_classifier: Classifier) -> None:
    classifier = loaded()
    save_bundle(tmp_path / "my.heatward", tiny_bundle(classifier, tiny_classifier))
    bundle = load_bundle(tmp_path / "my.heatward")
    moved = bundle.manifest.classifier.model_copy(update={"source": "onnx:elsewhere.onnx"})
    gone = replace(bundle, manifest=bundle.manifest.model_copy(update={"classifier": moved}))
    detector = Detector.assemble(gone, allow=("tiny",))
    assert detector.classifier.fingerprint == classifier.fingerprint
    assert [each.label for each in detector.detect(IMAGES.images)] == IMAGES.labels.tolist()


def test_another_file_is_another_classifier() -> None:
    assert loaded().fingerprint != loaded("tiny-4.onnx").fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_size": (20, 16)}, "does not fit colour images of 20×16"),
        ({"classes": ("one", "two", "three")}, "list its classes"),
        ({"arguments": {"input": "pictures"}}, "no input 'pictures': it has images"),
        ({"arguments": {"output": "labels"}}, "no output 'labels': it has logits"),
        ({"arguments": {"layout": "nhwc"}}, "as nhwc"),
        ({"arguments": {"threads": 3}}, "arguments.threads"),
        ({"weights": "net.safetensors"}, "carries its own weights"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ClassifierSpecError, match=words):
        loaded(**changes)


def test_a_damaged_file_is_no_model(tmp_path: Path) -> None:
    whole = (FILES / "tiny.onnx").read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("text", b"no model"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ClassifierSpecError, match="no ONNX model"):
            load_classifier(tiny.SPEC.model_copy(update={"source": f"onnx:{tmp_path / name}"}))
    with pytest.raises(ClassifierSpecError, match="there is no file"):
        load_classifier(tiny.SPEC.model_copy(update={"source": "onnx:nowhere.onnx"}))


def test_preprocessing_lies_before_it() -> None:
    raw = loaded(preprocessing=Preprocessing())
    half = (IMAGES.images - 0.5) / 0.25  # what the preprocessing of the tiny problem does
    torch.testing.assert_close(raw(half), loaded()(IMAGES.images), rtol=1e-4, atol=1e-4)

"""`kserve:HOST:PORT/MODEL`: a served model's own answers; one that goes away is asked again, and then named."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tiny
import torch
from fake_model_server import ModelServer, model_server
from heatward.inference import grpc_service_pb2 as kserve
from tiny_bundle import tiny_bundle

from detector.classifier import Classifier, load_classifier
from detector.classifier.sources.kserve import Remote
from detector.detector import Detector
from detector.errors import ClassifierSpecError, ClassifierUnavailableError, FingerprintMismatchError

IMAGES = tiny.images(12, seed=3).images
QUICK = {"wait_s": 0, "timeout_s": 5, "retries": 2}


@pytest.fixture
def served() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def asked(server: ModelServer, **arguments: Any) -> Classifier:
    return load_classifier(
        tiny.SPEC.model_copy(update={"source": server.source, "arguments": QUICK | arguments}), allow=(server.address,)
    )


def test_its_answers_are_the_models(served: ModelServer, tiny_classifier: Classifier) -> None:
    torch.testing.assert_close(asked(served)(IMAGES), tiny_classifier(IMAGES), rtol=1e-4, atol=1e-4)


def test_as_many_at_once_as_it_takes(served: ModelServer, tiny_classifier: Classifier) -> None:
    served.most = 5
    classifier = asked(served, batch=5)
    served.calls.clear()
    torch.testing.assert_close(classifier(IMAGES), tiny_classifier(IMAGES), rtol=1e-4, atol=1e-4)
    assert sorted(served.calls) == [2, 5, 5]
    with pytest.raises(ClassifierSpecError, match=r"at most 5 images.*batch"):
        asked(served)(IMAGES)


def test_a_fixed_batch_is_filled_up_and_told(
    served: ModelServer, tiny_classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    served.shape[0] = 5
    with caplog.at_level(logging.INFO, "heatward"):
        classifier = asked(served)
    assert "takes batches of 5" in caplog.text
    served.calls.clear()
    torch.testing.assert_close(classifier(IMAGES), tiny_classifier(IMAGES), rtol=1e-4, atol=1e-4)
    assert served.calls == [5, 5, 5]


def test_what_failed_is_asked_again_and_only_that(served: ModelServer, tiny_classifier: Classifier) -> None:
    classifier = asked(served, batch=6)
    served.calls.clear()
    served.refusals = [grpc.StatusCode.UNAVAILABLE]
    torch.testing.assert_close(classifier(IMAGES), tiny_classifier(IMAGES), rtol=1e-4, atol=1e-4)
    assert served.calls == [6, 6, 6]


def test_a_server_that_stays_away_is_named_and_may_come_back(served: ModelServer) -> None:
    classifier = asked(served)
    before = classifier(IMAGES)
    served.stop()
    with pytest.raises(ClassifierUnavailableError, match=rf"{served.address} does not answer.*asked 3 times") as caught:
        classifier(IMAGES)
    assert caught.value.code == "UNAVAILABLE"
    served.start()
    classifier_again = load_classifier(classifier.spec.model_copy(update={"arguments": QUICK | {"wait_s": 20}}))
    torch.testing.assert_close(classifier_again(IMAGES), before)


def test_a_server_that_is_late_is_waited_for_at_the_start(served: ModelServer) -> None:
    served.stop()
    late = threading.Timer(0.5, served.start)
    late.start()
    try:
        assert asked(served, wait_s=30, retries=0)(IMAGES).shape == (12, 4)
    finally:
        late.join()


def test_the_same_model_may_stand_elsewhere_and_another_may_not(tiny_classifier: Classifier) -> None:
    with model_server() as here, model_server() as there, model_server(tiny.net()) as other:
        bundle = tiny_bundle(asked(here), tiny_classifier)

        def at(server: ModelServer) -> Detector:
            def placed(spec: Any) -> Any:
                return spec.model_copy(update={"source": server.source}) if spec.kind == "kserve" else spec

            return Detector.assemble(bundle, allow=("tiny", server.address), placed=placed)

        verdicts = [[v.label for v in at(server).detect(IMAGES)] for server in (here, there)]
        assert verdicts[0] == verdicts[1] == tiny_classifier(IMAGES).argmax(1).tolist()
        with pytest.raises(FingerprintMismatchError, match="answers otherwise"):
            at(other)


def test_a_bundle_may_not_send_images_to_a_stranger(served: ModelServer) -> None:
    with pytest.raises(ClassifierSpecError, match=rf"sends images to '{served.address}'.*--trusted {served.address}"):
        load_classifier(asked(served).spec, allow=())


@pytest.mark.parametrize(
    ("shape", "words"),
    [([3, 16, 16], "four dimensions"), ([-1, 3, 32, 32], "does not fit"), ([-1, 16, 16, 3], "")],
)
def test_the_shape_it_says_decides(served: ModelServer, shape: list[int], words: str) -> None:
    served.shape = shape
    if words:
        with pytest.raises(ClassifierSpecError, match=words):
            asked(served)
    else:  # colours last: this fake's net fails on them
        with pytest.raises(ClassifierSpecError, match="refuses ModelInfer"):
            asked(served)


def test_another_name_and_a_bad_address_are_named(served: ModelServer) -> None:
    for source, words in (
        (f"kserve:{served.address}/cats", "NOT_FOUND: unknown model cats"),
        (f"kserve:{served.address}", "kserve:HOST:PORT/MODEL"),
        ("kserve:somewhere/cats", "kserve:HOST:PORT/MODEL"),
        (
            f"kserve:127.0.0.1:{int(served.address.rpartition(':')[2]) + 65536}/{served.source.rpartition('/')[2]}",
            "at most 65535",
        ),
    ):
        with pytest.raises(ClassifierSpecError, match=words):
            load_classifier(tiny.SPEC.model_copy(update={"source": source, "arguments": QUICK}))


def test_an_answer_that_is_cut_is_named(served: ModelServer) -> None:
    remote = Remote(tiny.SPEC.model_copy(update={"source": served.source, "arguments": QUICK}))
    for shape, raw in (([2, 4], []), ([2, 4], [b"123"]), ([0, -5], [b""]), ([-2, -4], [bytes(32)])):
        answer = kserve.ModelInferResponse(raw_output_contents=[bytes(4), *raw])
        answer.outputs.add(name="other", datatype="FP32", shape=[1])
        answer.outputs.add(name="logits", datatype="FP32", shape=shape)
        with pytest.raises(ClassifierSpecError, match="expected whole scores 'logits'"):
            remote._scores(answer, "logits")


def test_a_server_that_goes_away_while_it_is_probed_is_away(served: ModelServer) -> None:
    served.refusals = []
    net = served.net

    def gone(images: torch.Tensor) -> torch.Tensor:
        if len(served.calls) > 1:
            served.refusals += [grpc.StatusCode.UNAVAILABLE] * 9
        return net(images)

    served.net = gone
    with pytest.raises(ClassifierUnavailableError):
        asked(served)

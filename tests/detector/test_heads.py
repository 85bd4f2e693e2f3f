"""Whatever form a net's answer has, what stands behind it sees logits (B, K): the same ones."""

from __future__ import annotations

import logging
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, ClassifierSpec, Preprocessing
from detector.classifier.sources import Net
from detector.errors import ClassifierSpecError, NoGradientError
from detector.heatmaps import gradient

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
THREE, TWO = ("a", "b", "c"), ("cat", "dog")


class Ending(nn.Module):
    """Plain logits, with another ending each."""

    def __init__(self, end: Callable[[Tensor], Any], classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8, classes)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(10 * self.head(self.features(x).relu().mean((2, 3))))


def loaded(
    end: Callable[[Tensor], Any],
    classes: tuple[str, ...] = THREE,
    outputs: int = 3,
    output: Literal["auto", "logits", "probabilities"] = "auto",
) -> Classifier:
    spec = ClassifierSpec(source="python:my:net", input_size=(16, 16), classes=classes, output=output)
    return Classifier(spec, Net(Ending(end, outputs).eval(), embeddable=True, identity="mine"))


def assert_same_classifier(one: Classifier, other: Classifier, atol: float = 1e-4) -> None:
    """Log-probabilities, and the gradients of the margin between the first two classes, are the same."""
    torch.testing.assert_close(one(IMAGES).log_softmax(1), other(IMAGES).log_softmax(1), atol=atol, rtol=1e-3)
    slopes = []
    for each in (one, other):
        images = IMAGES.clone().requires_grad_()
        logits = each(images)
        slopes.append(torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), images)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=atol, rtol=1e-2)


Named = namedtuple("Named", ["features", "logits"])
NamedOtherwise = namedtuple("NamedOtherwise", ["aux", "scores"])


class ModelOutput(OrderedDict[str, Tensor]):
    """As Hugging Face's."""


class WithLogits:
    def __init__(self, logits: Tensor) -> None:
        self.loss, self.logits = None, logits


FORMS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a tuple with auxiliary logits": (lambda x: (x, x.flip(1)), "entry 0"),
    "a list": (lambda x: [x], "entry 0"),
    "a tuple that begins with the loss": (lambda x: (x.sum(), x), "entry 1"),
    "a named tuple": (lambda x: Named(x.flip(1), x), "entry logits"),
    "a dictionary": (lambda x: {"features": x.flip(1), "logits": x}, "entry logits"),
    "a dictionary by another name": (lambda x: {"loss": x.sum(), "classes": x}, "entry classes"),
    "as torchvision's segmentation": (lambda x: OrderedDict(aux=x.flip(1), out=x), "entry out"),
    "auxiliary logits first": (lambda x: {"aux_logits": x.flip(1), "main": x}, "entry main"),
    "a named tuple of other names": (lambda x: NamedOtherwise(x.flip(1), x), "entry scores"),
    "a model output": (lambda x: ModelOutput(logits=x), "entry logits"),
    "an object": (WithLogits, "entry logits"),
    "probabilities": (lambda x: x.softmax(1), "probabilities"),
    "probabilities in percent": (lambda x: 100 * x.softmax(1), "probabilities"),
    "probabilities in a dictionary": (lambda x: {"p": x.softmax(1)}, "entry p, probabilities"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_logits(name: str) -> None:
    end, kind = FORMS[name]
    classifier = loaded(end)
    assert classifier.module.head.kind == kind
    assert_same_classifier(classifier, loaded(lambda x: x))
    assert classifier.fingerprint != loaded(lambda x: x).fingerprint


SINGLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "(B, 1)": (lambda x: x, "one for two classes"),
    "(B,)": (lambda x: x[:, 0], "one for two classes"),
    "squeeze that keeps the batch": (lambda x: x.squeeze(1), "one for two classes"),
    "a sigmoid": (lambda x: x.sigmoid(), "one for two classes, probabilities"),
    "a sigmoid (B,)": (lambda x: x.sigmoid()[:, 0], "one for two classes, probabilities"),
    "in a tuple": (lambda x: (x,), "entry 0, one for two classes"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_number_is_the_second_of_two_classes(name: str) -> None:
    end, kind = SINGLE[name]
    classifier, numbers = loaded(end, TWO, 1), Ending(lambda x: x, 1).eval()(IMAGES)[:, 0]
    assert classifier.module.head.kind == kind
    torch.testing.assert_close(classifier(IMAGES).diff(dim=1)[:, 0], numbers, atol=1e-5, rtol=1e-4)
    assert_same_classifier(classifier, loaded(lambda x: torch.cat([0 * x, x], 1), TWO, 1))


def test_probabilities_are_told_once_and_then_written_down(caplog: pytest.LogCaptureFixture) -> None:
    classifier = loaded(lambda x: x.softmax(1))
    assert "their logarithms are taken" in caplog.text and classifier.spec.output == "probabilities"
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        again = Classifier(classifier.spec, Net(Ending(lambda x: x.softmax(1)), True, "mine"))
    assert caplog.text == "" and again.fingerprint == classifier.fingerprint


def test_logits_that_look_like_probabilities_are_logits_where_that_is_said() -> None:
    classifier = loaded(lambda x: x.softmax(1), output="logits")
    torch.testing.assert_close(classifier(IMAGES), Ending(lambda x: x.softmax(1)).eval()(IMAGES))
    assert classifier.spec.output == "logits" and classifier.module.head.kind == ""


def test_what_is_said_must_be_so() -> None:
    with pytest.raises(ClassifierSpecError, match=r"do not sum to 1.*output = \"logits\""):
        loaded(lambda x: x, output="probabilities")


def test_a_plain_number_between_0_and_1_is_asked_about() -> None:
    with pytest.raises(ClassifierSpecError, match='output = "logits" or output = "probabilities"'):
        loaded(lambda x: x.detach().sigmoid(), TWO, 1)
    assert loaded(lambda x: x.detach().sigmoid(), TWO, 1, "probabilities")(IMAGES).shape == (4, 2)
    with pytest.raises(ClassifierSpecError, match='output = "logits" or output = "probabilities"'):
        loaded(lambda x: 1 / (1 + (-x).exp()), TWO, 1)


def test_shares_of_each_class_that_may_be_logits_are_told(caplog: pytest.LogCaptureFixture) -> None:
    loaded(lambda x: 1 / (1 + (-x).exp()))
    assert "several labels an image" in caplog.text
    caplog.clear()
    loaded(lambda x: 1 / (1 + (-x).exp()), output="logits")
    assert not caplog.text


def test_probabilities_without_a_graph_have_no_gradient() -> None:
    with pytest.raises(NoGradientError, match="leaves the graph"):
        gradient(loaded(lambda x: x.softmax(1).detach()), IMAGES)


def test_near_certainty_keeps_its_gradient() -> None:
    sure, plain = loaded(lambda x: (40 * x).softmax(1)), loaded(lambda x: 40 * x)
    assert sure(IMAGES).softmax(1).amax(1).min() > 0.99
    assert_same_classifier(sure, plain, atol=1e-3)


@pytest.mark.parametrize("classes", [THREE, ("a", "b")])
def test_several_labels_an_image_are_refused_with_a_way_out(classes: tuple[str, ...]) -> None:
    with pytest.raises(ClassifierSpecError, match=r'multi-label.*leave the sigmoid out.*"not a" and "a"'):
        loaded(lambda x: x.sigmoid(), classes, len(classes))


def test_a_saturated_sigmoid_is_refused() -> None:
    with pytest.raises(ClassifierSpecError, match="exactly 0 or 1"):
        loaded(lambda x: (1e6 * x).sigmoid(), TWO, 1)


def test_one_number_that_loses_the_batch_is_refused() -> None:
    with pytest.raises(ClassifierSpecError, match=r"\(\) for one image.*batch dimension"):
        loaded(lambda x: x.squeeze(), TWO, 1)


def test_an_answer_of_other_classes_says_what_it_holds() -> None:
    with pytest.raises(ClassifierSpecError, match=r"logits: \(2, 3\).*expected logits \(2, 2\).*as many classes"):
        loaded(lambda x: {"logits": x}, TWO)


def test_one_of_several_entries_is_not_guessed() -> None:
    with pytest.raises(ClassifierSpecError, match=r"several entries .*\(coarse, fine\).*'logits'"):
        loaded(lambda x: {"coarse": x, "fine": x.flip(1)})


def test_of_two_classes_a_number_each_goes_before_one_number() -> None:
    classifier = loaded(lambda x: {"uncertainty": x[:, 0] ** 2, "scores": x}, TWO, 2)
    assert classifier.module.head.kind == "entry scores"


def test_sigmoids_of_several_heads_are_several_labels() -> None:
    with pytest.raises(ClassifierSpecError, match="multi-label"):
        loaded(lambda x: torch.stack([each.sigmoid() for each in x.unbind(1)], 1))
    with pytest.raises(ClassifierSpecError, match="multi-label"):
        loaded(lambda x: torch.cat([each.sigmoid() for each in x.split(1, 1)], 1))


# --- channels


def grey(**preprocessing: Any) -> Classifier:
    spec = ClassifierSpec(
        source="python:my:net", input_size=(16, 16), classes=THREE, preprocessing=Preprocessing(**preprocessing)
    )
    return Classifier(spec, Net(Ending(lambda x: x, channels=1).eval(), embeddable=True, identity="mine"))


def test_a_grey_net_sees_the_luma_and_colours_get_their_gradient() -> None:
    classifier = grey(channel_order="grey", mean=[0.25], std=[0.5])
    luma = (IMAGES * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(classifier(IMAGES), Ending(lambda x: x, channels=1).eval()((luma - 0.25) / 0.5))
    images = IMAGES.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
    torch.testing.assert_close(slopes[:, 0] * 0.587, slopes[:, 1] * 0.299)
    assert slopes.any()


def test_a_grey_net_has_one_mean() -> None:
    with pytest.raises(ValueError, match="one number each"):
        Preprocessing(channel_order="grey", mean=(0.1, 0.2, 0.3))


def test_another_number_of_channels_says_what_to_write() -> None:
    with pytest.raises(ClassifierSpecError, match='takes one channel: write channel_order = "grey"'):
        grey()
    for channels, told in ((4, "takes 4 channels.*adds others"), (3, 'leave channel_order = "grey" out')):
        spec = ClassifierSpec(
            source="python:my:net",
            input_size=(16, 16),
            classes=THREE,
            preprocessing=Preprocessing(channel_order="RGB" if channels == 4 else "grey"),
        )
        with pytest.raises(ClassifierSpecError, match=told):
            Classifier(spec, Net(Ending(lambda x: x, channels=channels).eval(), embeddable=True, identity="mine"))

"""Nets that must not be trusted are refused when they are loaded, each by its name; those that may are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from detector.classifier import Classifier, ClassifierSpec, load_classifier
from detector.classifier.sources import Net
from detector.errors import ClassifierSpecError, LayerNotFoundError, NoGradientError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.heatmaps import cam, gradient

THREE = ("a", "b", "c")


class Ending(nn.Module):
    """Features (n, 8, h, w) with another ending each."""

    def __init__(self, end: Callable[[Ending, Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, classes)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.features(x).relu())

    def logits(self, maps: Tensor) -> Tensor:
        answer: Tensor = self.head(maps.mean((2, 3)))
        return answer


def loaded(module: nn.Module, classes: tuple[str, ...] = THREE) -> Classifier:
    spec = ClassifierSpec(source="python:my:net", input_size=(16, 16), classes=classes)
    return Classifier(spec, Net(module.eval(), embeddable=True, identity="mine"))


REFUSED: dict[str, tuple[Callable[[Ending, Tensor], Any], str]] = {
    "NaN for every image": (lambda n, m: n.logits(m) * torch.nan, "NaN or infinity for every image.*weights"),
    "log of a sure softmax": (lambda n, m: (n.logits(m) * 1e6).softmax(1).log(), "minus infinity.*log_softmax"),
    "clamped sigmoid": (lambda n, m: n.logits(m).sigmoid().clamp(1e-6, 1 - 1e-6), r"probabilities \(of a sigmoid\)"),
    "squeeze": (lambda n, m: n.head(m.mean((2, 3), keepdim=True).squeeze()), r"\(3,\) for one image.*batch dimension"),
    "squeeze of logits": (lambda n, m: n.logits(m).squeeze(), r"\(3,\) for one image.*batch dimension"),
    "flatten(0)": (lambda n, m: n.logits(m).flatten(0), r"\(6,\) for two images.*batch dimension"),
    "argmax over dimension 1 of a squeezed map": (
        lambda n, m: n.head(m.mean((2, 3)).squeeze()).softmax(1).log(),
        r"failed on one image.*keep the batch dimension",
    ),
    "transposed": (lambda n, m: n.logits(m).T, r"\(3, 2\) for two images.*\.T"),
    "extra dimensions": (lambda n, m: n.logits(m)[:, :, None, None], r"\(2, 3, 1, 1\).*flatten\(1\)"),
    "an extra dimension before the classes": (
        lambda n, m: n.logits(m)[:, None],
        r"\(2, 1, 3\).*: end it in flatten\(1\)",
    ),
    "sparse": (lambda n, m: n.logits(m).to_sparse(), r"a sparse tensor, .*\.to_dense\(\)"),
    "mean over the batch": (lambda n, m: n.logits(m).mean(0, keepdim=True), r"\(1, 3\) for two images"),
    "a tuple without logits": (lambda n, m: (m, m), r"a tuple with 0: \(2, 8, 16, 16\), .* expected logits \(2, 3\)"),
    "an empty dictionary": (lambda n, m: {}, "a dict with no tensor for two images"),
    "labels": (lambda n, m: n.logits(m).argsort(1), "int64.*argmax"),
    "one label each": (lambda n, m: n.logits(m).argmax(1), r"\(2,\) for two images"),
    "batch statistics": (
        lambda n, m: n.logits(functional.batch_norm(m, None, None, training=True)),
        "differently beside other images.*running statistics",
    ),
    "centred over the batch": (lambda n, m: n.logits(m) - n.logits(m).mean(0), "differently beside other images"),
    "scaled by the brightest of the batch": (lambda n, m: n.logits(m / m.max()), "differently beside other images"),
    "softmax over the batch": (lambda n, m: n.logits(m).softmax(0), "differently beside other images"),
    "dropout": (lambda n, m: n.logits(functional.dropout(m, 0.5)), "differently each time.*eval mode"),
    "noise": (lambda n, m: n.logits(m + torch.randn_like(m)), "differently each time"),
    "a fixed batch of two": (lambda n, m: n.head(m.mean((2, 3)).view(2, 8)), "failed on one image"),
    "a fixed batch of up to two": (
        lambda n, m: n.logits(m) if len(m) < 3 else n.head(m.mean((2, 3)).view(2, 8)),
        "failed on three images.*dynamic batch dimension",
    ),
    "a sure softmax": (lambda n, m: (n.logits(m) * 1e5).softmax(1), "probabilities.*softmax.*expected logits"),
    "one-hot": (lambda n, m: functional.one_hot(n.logits(m).argmax(1), 3).float(), "probabilities.*expected logits"),
    "sigmoid": (lambda n, m: n.logits(m).sigmoid(), "probabilities.*sigmoid.*expected logits"),
    "a sure sigmoid": (lambda n, m: (n.logits(m) * 1e5).sigmoid().view(-1, 3), "probabilities.*sigmoid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_net_that_cannot_be_used_is_refused_by_name(name: str) -> None:
    end, told = REFUSED[name]
    with pytest.raises(ClassifierSpecError, match=told):
        loaded(Ending(end))


@pytest.mark.parametrize("name", ["squeeze", "a sure softmax"])
def test_a_witness_is_probed_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "strange", lambda: Ending(REFUSED[name][0], 4), raising=False)
    with pytest.raises(ClassifierSpecError, match="tiny:strange"):
        load_classifier(tiny.SPEC.model_copy(update={"source": "python:tiny:strange"}))


def test_two_classes_do_not_hide_a_transposed_answer() -> None:
    with pytest.raises(ClassifierSpecError, match=r"\(2, 1\) for one image.*\.T"):
        loaded(Ending(lambda n, m: n.logits(m).T, 2), ("a", "b"))


ACCEPTED: dict[str, Callable[[Ending, Tensor], Any]] = {
    "logits": lambda n, m: n.logits(m),
    "log-probabilities": lambda n, m: n.logits(m).log_softmax(1),
    "the sure ones": lambda n, m: (n.logits(m) * 1e5).log_softmax(1),
    "logits between 0 and 1": lambda n, m: n.logits(m).abs() / 10,
    "negative logits": lambda n, m: -n.logits(m).exp(),
    "large logits": lambda n, m: 1e4 * n.logits(m) + 1e5,
    "scaled sigmoids": lambda n, m: 10 * n.logits(m).sigmoid(),
    "half precision": lambda n, m: n.logits(m).half(),
    "asleep on noise": lambda n, m: n.head(m.mean((2, 3)) * (m.std((1, 2, 3)) < 0.1)[:, None]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_logits_of_every_kind_are_taken(name: str) -> None:
    classifier = loaded(Ending(ACCEPTED[name]))
    assert classifier.differentiable and classifier.no_gradient == ""
    assert classifier(torch.rand(1, 3, 16, 16)).shape == (1, 3)


WITHOUT: dict[str, tuple[Callable[[Ending, Tensor], Any], str]] = {
    "no_grad": (lambda n, m: n.logits(m).detach(), "leaves the graph"),
    "numpy": (lambda n, m: torch.from_numpy(n.logits(m).detach().numpy()), "leaves the graph"),
    "numpy without detach": (
        lambda n, m: torch.from_numpy(n.logits(m).numpy()),
        "where gradients are on: .*numpy",
    ),
    "rounding": (lambda n, m: n.logits(m.round()), "rounds"),
    "saturated log": (lambda n, m: ((n.logits(m) * 1e6).softmax(1) + 1e-9).log(), "log_softmax"),
    "zero head": (lambda n, m: 0 * n.logits(m), "head is all zeros.*`weights`"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_errors_of_a_net_without_gradients_say_why(name: str) -> None:
    end, told = WITHOUT[name]
    classifier = loaded(Ending(end))
    assert not classifier.differentiable
    with pytest.raises(NoGradientError, match=told):
        gradient(classifier, torch.rand(1, 3, 16, 16))
    with pytest.raises(NoGradientError, match=told):
        EvidenceExtractor(classifier, EvidenceSettings())


def test_a_net_without_maps_is_not_told_to_be_what_it_is() -> None:
    classifier = loaded(nn.Sequential(nn.Flatten(1), nn.Linear(3 * 256, 3)))
    with pytest.raises(NoGradientError, match=r"answers maps \(B, D, h, w\)") as raised:
        EvidenceExtractor(classifier, EvidenceSettings())
    assert "timm:" not in str(raised.value)


class WithAuxiliary(nn.Module):
    """A net that answers what its auxiliary head says, too, and asks that head last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.deep, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.aux = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        return {"logits": self.head(self.deep(x).mean((2, 3))), "aux": self.aux(x)}


def test_an_auxiliary_head_has_no_layers() -> None:
    classifier = loaded(WithAuxiliary())
    assert classifier.deepest == "deep" and not any(name.startswith("aux") for name in classifier.layers)
    assert {"trunk.0", "trunk.1", "trunk.2"} < set(classifier.layers)
    assert cam(classifier, torch.rand(2, 3, 16, 16)).maps.shape == (2, 1, 8, 8)
    with pytest.raises(LayerNotFoundError, match=r"'aux\.0' .*no logit depends"):
        classifier.activations(torch.rand(1, 3, 16, 16), ["aux.0"])


class Recomputed(WithAuxiliary):
    def forward(self, x: Tensor) -> Any:
        answer: Any = checkpoint(self.trunk, x, use_reentrant=False)
        return self.head(self.deep(answer).mean((2, 3)))


def test_layers_that_are_computed_again_for_the_gradient_are_layers() -> None:
    assert {"trunk.0", "trunk.1", "trunk.2", "deep"} <= set(loaded(Recomputed()).layers)


def test_parameters_of_another_precision_say_what_to_write() -> None:
    with pytest.raises(ClassifierSpecError, match=r"parameters are torch\.float64.*\.float\(\)"):
        loaded(WithAuxiliary().double())


def test_a_traced_program_of_fixed_batch_is_refused(tmp_path: Path) -> None:
    net = Ending(lambda n, m: n.head(m.mean((2, 3)).view(int(m.shape[0]), 8))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net.requires_grad_(False), torch.rand(2, 3, 16, 16)).save(str(tmp_path / "net.pt"))
    spec = ClassifierSpec(source=f"torchscript:{tmp_path / 'net.pt'}", input_size=(16, 16), classes=THREE)
    with pytest.raises(ClassifierSpecError, match="failed on one image"):
        load_classifier(spec)

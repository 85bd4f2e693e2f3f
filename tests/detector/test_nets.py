"""What a person's own factory may return: compiled nets are read as they were written, others are refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from detector.classifier import Classifier, load_classifier
from detector.errors import ClassifierSpecError


def of(factory: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setattr(tiny, "mine", factory, raising=False)
    return load_classifier(tiny.SPEC.model_copy(update={"source": "python:tiny:mine"}))


def compiled() -> Any:
    return torch.compile(tiny.net(), backend="eager")


def compiled_in_part() -> nn.Module:
    net: Any = tiny.net()
    net.block2 = torch.compile(net.block2, backend="eager")
    net.block3.conv.compile(backend="eager")
    compiled: nn.Module = net
    return compiled


@pytest.mark.parametrize("factory", [compiled, compiled_in_part])
def test_a_compiled_net_is_read_as_it_was_written(
    factory: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code would keep the hooks that it saw first, and see no later ones."""
    classifier, plain = of(factory, monkeypatch), of(tiny.net, monkeypatch)
    assert classifier.layers == plain.layers and classifier.fingerprint == plain.fingerprint
    images = torch.rand(2, 3, tiny.SIDE, tiny.SIDE)
    for layers in (["block1"], ["block3"]):
        _, maps = classifier.activations(images, layers)
        assert torch.equal(maps[layers[0]], plain.activations(images, layers)[1][layers[0]])


def scripted_in_part() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: Any = tiny.net()
        net.block2 = torch.jit.script(net.block2)
    scripted: nn.Module = net
    return scripted


def test_what_is_scripted_hides_its_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = of(scripted_in_part, monkeypatch).layers
    assert "block1.conv" in layers and "block3.conv" in layers and not any("block2" in name for name in layers)


class Lazy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(4))


class WithState(tiny.TinyNet):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}


class Counting(tiny.TinyNet):
    calls: torch.Tensor

    def __init__(self, persistent: bool = True) -> None:
        super().__init__(8, 4)
        self.register_buffer("calls", torch.zeros(1), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Remembers(tiny.TinyNet):
    """Makes a buffer where it is first asked, as nets do that keep a grid of places."""

    def __init__(self) -> None:
        super().__init__(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "grid" not in dict(self.named_buffers()):
            self.register_buffer("grid", torch.zeros(1))
        return super().forward(x)


class Unfilled(tiny.TinyNet):
    def __init__(self) -> None:
        super().__init__(8, 4)
        self.register_buffer("unused", torch.tensor([1.0, float("nan")]))


def test_a_buffer_of_nan_that_stays_as_it_is_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(Unfilled, monkeypatch).layers


def without_data() -> nn.Module:
    with torch.device("meta"):
        return tiny.TinyNet(8, 4)


def test_what_a_net_counts_beside_its_state_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(lambda: Counting(persistent=False), monkeypatch).layers


class Clips(tiny.TinyNet):
    """Keeps a parameter of five dimensions."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.clip = nn.Conv3d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.clip(x[:, :, None])[:, :, 0])


def test_parameters_may_have_five_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(Clips, monkeypatch).layers


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (Counting, r"changes 'calls' in its state dict.*persistent=False"),
        (Remembers, r"changes 'grid' in its state dict.*persistent=False"),
        (without_data, r"without data \(.* is on the meta device\): build it on the CPU"),
        (Lazy, r"lazy layers \(0\.weight\).*run the net on an image once"),
        (lambda: WithState(8, 4), r"'_extra_state'.*no tensor.*get_extra_state"),
        (dict, "returned a dict"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    factory: Callable[[], Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClassifierSpecError, match=told):
        of(factory, monkeypatch)

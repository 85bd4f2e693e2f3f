"""`art:NAME`: an evasion attack of the adversarial-robustness-toolbox (Nicolae et al. 2018)."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.errors import ConfigError
from training.attacks.methods.method import Attacked, arguments_of, whole_of
from training.load import nearest

__all__ = ["ArtAttack"]


class ArtAttack:
    """A class of the toolbox.

    Raises:
        ConfigError: The toolbox is not installed, or there is none of that name.
    """

    takes_any = False
    code = ""

    def __init__(self, name: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it imports
                from art.attacks import EvasionAttack, evasion
                from art.estimators import classification
                from art.estimators.estimator import LossGradientsMixin
        except ImportError as error:
            raise ConfigError(f"art:{name} needs the extra `art`, pip install 'heatward[art]' ({error})") from error
        known: dict[str, Any] = {
            each: kind
            for each, kind in vars(evasion).items()
            if inspect.isclass(kind) and issubclass(kind, EvasionAttack) and not inspect.isabstract(kind)
        }
        if name not in known:
            raise ConfigError(
                f"the adversarial-robustness-toolbox has no evasion attack {name!r}{nearest(name, list(known))}"
            )
        self.title = f"art:{name}"
        self.kind = known[name]
        self.estimator: Any = classification.PyTorchClassifier
        arguments = arguments_of(self.kind.__init__, skip=2)
        self.arguments: Mapping[str, Any] = {key: value for key, value in arguments.items() if key != "targeted"}
        self.whole = whole_of(self.kind.__init__)
        wanted = (LossGradientsMixin, classification.ClassGradientsMixin)
        self.needs_gradient = any(issubclass(each, wanted) for each in _flat(self.kind._estimator_requirements))

    def bound(self, parameters: Mapping[str, Any]) -> float | None:
        values = {**self.arguments, **parameters}
        return float(values["eps"]) if "eps" in values and values.get("norm") in (math.inf, "inf") else None

    def build(self, classifier: Classifier, parameters: Mapping[str, Any], seed: int) -> Attacked:
        estimator = self.estimator(
            _Float32(classifier.module),
            loss=nn.CrossEntropyLoss(),
            input_shape=(3, *classifier.input_size),
            nb_classes=classifier.num_classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if classifier.device.type == "cpu" else "gpu",
        )
        quiet = {"verbose": False} if "verbose" in self.arguments else {}
        attack = self.kind(estimator, **{**quiet, **parameters})

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            with _seeded():
                found = attack.generate(x=images.cpu().numpy(), y=labels.cpu().numpy())
            return torch.from_numpy(found).to(images)

        return attacked


class _RandomState(np.random.RandomState):
    """Seeded from numpy's global state, where nobody gives a seed, not from the clock."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**31) if seed is None else seed)


@contextmanager
def _seeded() -> Iterator[None]:
    """Some attacks draw from generators of their own; the same seed must give the same images."""
    before = np.random.RandomState
    np.random.RandomState = _RandomState  # type: ignore[misc]
    try:
        yield
    finally:
        np.random.RandomState = before  # type: ignore[misc]


class _Float32(nn.Module):
    """Some attacks hand over double precision."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images.float())
        return logits


def _flat(requirements: Any) -> list[type]:
    """A requirement may be a tuple of which one is enough."""
    return [kind for each in requirements for kind in (each if isinstance(each, tuple) else (each,))]

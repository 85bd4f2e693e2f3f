"""`foolbox:NAME`: an attack of foolbox (Rauber et al. 2020). `eps` is what foolbox calls `epsilons`.

An attack of a fixed size needs it. One that looks for the smallest change does not; with it, what went further is drawn
back to that size, and fools no longer.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError
from training.attacks.methods.method import REQUIRED, Attacked, arguments_of, whole_of
from training.load import nearest

__all__ = ["FoolboxAttack"]

BY_DECISION = {
    "additive_noise", "binarization", "blended_noise", "blur", "boundary_attack", "contrast", "contrast_min",
    "dataset_attack", "gen_attack", "hop_skip_jump", "inversion", "pointwise", "saltandpepper", "spatial_attack",
}  # fmt: skip
"""Modules of foolbox whose attacks take no gradient."""
NO_START = "init_attack failed"
"""What foolbox says where it finds no adversarial image to begin with, of a whole batch."""


class FoolboxAttack:
    """A class of foolbox.

    Raises:
        ConfigError: foolbox is not installed, or there is none of that name.
    """

    takes_any = False
    code = ""

    def __init__(self, name: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it imports
                import foolbox
        except ImportError as error:
            raise ConfigError(
                f"foolbox:{name} needs the extra `foolbox`, pip install 'heatward[foolbox]' ({error})"
            ) from error
        known = {
            each: kind
            for each, kind in vars(foolbox.attacks).items()
            if inspect.isclass(kind) and issubclass(kind, foolbox.attacks.base.Attack) and not inspect.isabstract(kind)
        }
        if name not in known:
            raise ConfigError(f"foolbox has no attack {name!r}{nearest(name, list(known))}")
        self.foolbox: Any = foolbox
        self.title = f"foolbox:{name}"
        self.kind: Any = known[name]
        smallest = issubclass(self.kind, foolbox.attacks.base.MinimizationAttack)
        self.arguments: Mapping[str, Any] = {
            **arguments_of(self.kind.__init__, skip=1),
            "eps": None if smallest else REQUIRED,
        }
        self.whole = whole_of(self.kind.__init__)
        self.needs_gradient = self.kind.__module__.rpartition(".")[2] not in BY_DECISION

    def bound(self, parameters: Mapping[str, Any]) -> float | None:
        eps, distance = parameters.get("eps"), getattr(self.kind, "distance", None)
        return float(eps) if eps is not None and distance == self.foolbox.distances.linf else None

    def build(self, classifier: Classifier, parameters: Mapping[str, Any], seed: int) -> Attacked:
        attack = self.kind(**{name: value for name, value in parameters.items() if name != "eps"})
        model = self.foolbox.PyTorchModel(classifier.module, bounds=(0, 1), device=classifier.device)
        eps = parameters.get("eps")

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            try:
                _, clipped, _ = attack(model, images, self.foolbox.Misclassification(labels), epsilons=eps)
            except ValueError as error:
                if NO_START not in str(error):
                    raise
                if len(images) == 1:  # this image stays clean
                    return images
                # one image without a beginning would take the whole batch with it
                return torch.cat([attacked(images[at : at + 1], labels[at : at + 1]) for at in range(len(images))])
            found: Tensor = clipped
            return found

        return attacked

"""Attacks that need gradients, on a classifier that has none: made on the witness, counted where they fool both.

    classifier, witness, attack ─▶ `target_of` ─▶ what the attack is made on

What fools one net often fools another that learned the same (Szegedy et al. 2014; Papernot et al. 2017, who train such
a stand-in on the answers of the model they attack). The worker looks at the guarded classifier's predictions, so that
only what fools *it* is learnt from.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from detector.classifier import Classifier, Preprocessing
from detector.classifier.sources import Net
from detector.errors import ConfigError
from training.attacks.attacks import needs_gradient
from training.attacks.methods import NO_GRADIENT
from training.config import AttackSpec

__all__ = ["check_transfer", "stand_in", "target_of", "transfers"]


def transfers(spec: AttackSpec, classifier: Classifier) -> bool:
    """Whether an attack must be made on another net than the one under guard."""
    return not classifier.differentiable and needs_gradient(spec)


def check_transfer(spec: AttackSpec, classifier: Classifier, witness: Classifier | None, *, made_later: bool) -> None:
    """Say that there is nothing to make an attack on, before hours are spent.

    Args:
        spec: The attack.
        classifier: Under guard.
        witness: As it is given.
        made_later: Whether the job makes the witness itself.

    Raises:
        ConfigError: It needs gradients, and neither the classifier nor the witness has any.
    """
    if not transfers(spec, classifier) or made_later or (witness is not None and witness.differentiable):
        return
    other = f", nor the witness {witness.spec.source!r}" if witness is not None else ", and there is no witness"
    raise ConfigError(
        f"attack {spec.label!r}: {spec.name} needs gradients; the classifier {classifier.spec.source!r} gives none"
        f"{other} to make it on: give a [witness] with gradients, leave [witness] out so that the job trains one, or "
        f"use attacks without gradients ({', '.join(sorted(NO_GRADIENT))})"
    )


def target_of(spec: AttackSpec, classifier: Classifier, made_on: Classifier | None) -> Classifier:
    """What an attack is made on: the classifier, or what stands in for it."""
    return made_on if made_on is not None and transfers(spec, classifier) else classifier


def stand_in(classifier: Classifier, witness: Classifier) -> Classifier:
    """The witness, for images of the classifier's size."""
    if witness.input_size == classifier.input_size:
        return witness
    spec = witness.spec.model_copy(update={"input_size": classifier.input_size, "preprocessing": Preprocessing()})
    net = Net(_Resized(witness.module, witness.input_size), True, f"resized {witness.fingerprint}")
    return Classifier(spec, net, device=classifier.device)


class _Resized(nn.Module):
    """Images in [0, 1] of any size → logits, as the evidence shows them to the witness."""

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> Tensor:
        small = functional.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        logits: Tensor = self.net(small)
        return logits

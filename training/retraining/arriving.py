"""How clean images arrive, as a bundle learnt it: pixels of one photograph in, every version of it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from detector.bundle import Bundle
from detector.classifier import Classifier
from detector.errors import ConfigError
from training.attacks.deliver import deliver
from training.deliveries import DeliverySpec

__all__ = ["learnt", "versions", "ways_of"]


def learnt(bundle: Bundle) -> tuple[str, ...]:
    """Labels of the deliveries that a bundle learnt, whether or not this heatward knows them."""
    known: Any = bundle.manifest.provenance.get("deliveries") or []
    return tuple(way["label"] for way in known if way.get("train", True))


def ways_of(bundle: Bundle) -> tuple[DeliverySpec, ...]:
    """The deliveries that a bundle learnt.

    Raises:
        ConfigError: It learnt none, or this heatward does not know one of them.
    """
    known: Any = bundle.manifest.provenance.get("deliveries", [])
    try:
        ways = tuple(way for way in TypeAdapter(tuple[DeliverySpec, ...]).validate_python(known) if way.train)
    except ValidationError as error:
        raise ConfigError(
            "--delivered: this heatward does not know a delivery of the bundle: use the release that made it, or leave "
            f"--delivered out ({error})"
        ) from error
    if not ways:
        raise ConfigError(
            "--delivered: the bundle learnt no delivery, so that thresholds are of images as they are: leave it out"
        )
    return ways


def versions(classifier: Classifier, pixels: NDArray[np.uint8], ways: Sequence[DeliverySpec], seed: int) -> Tensor:
    """A photograph (H, W, 3) as it is and in each way, as the classifier sees it: (1 + ways, 3, h, w) in [0, 1].

    Args:
        classifier: Brings it to its size.
        pixels: RGB.
        ways: How it arrives; native ones change it at its own size.
        seed: Decides what is drawn.
    """
    prepared = classifier.prepare(pixels)
    small, large = (prepared * 255).round().to(torch.uint8), torch.tensor(pixels).permute(2, 0, 1)
    found = [prepared]
    for way in ways:
        arrived = deliver((large if way.native else small)[None], way.steps, seed)[0]
        found.append(classifier.prepare(arrived.permute(1, 2, 0).numpy()) if way.native else arrived / 255)
    return torch.stack(found)

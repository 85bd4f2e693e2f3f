"""What every source gives back: **a net, and what it takes to build it again**."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec

__all__ = ["Net", "called"]


@dataclass(frozen=True)
class Net:
    """A net as it came from its source.

    Attributes:
        module: Normalised images (B, 3, H, W) → logits (B, K), in eval mode.
        embeddable: Whether spec + state dict are enough to build it again; otherwise its file is needed.
        identity: What names the architecture in the fingerprint, free of paths.
        fingerprinted: Whether arguments and state dict belong into the fingerprint. Not of a remote model: they say how
            it is asked, and hold answers that may differ a little each time.
    """

    module: nn.Module
    embeddable: bool
    identity: str
    fingerprinted: bool = True


def called(factory: Callable[..., Any], spec: ClassifierSpec, arguments: dict[str, Any]) -> nn.Module:
    try:
        module = factory(**{**arguments, **spec.arguments})
    except Exception as error:  # the user's or a library's code
        raise ClassifierSpecError(
            f"{spec.source} could not be built with arguments {spec.arguments} ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(module, nn.Module):
        raise ClassifierSpecError(f"{spec.source} returned a {type(module).__name__}, expected a torch.nn.Module.")
    return module

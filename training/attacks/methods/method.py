"""What every library's attacks look like to a job: a name in; arguments, promises and a function on images out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from detector.classifier import Classifier

__all__ = ["EPSILONS", "REQUIRED", "Attacked", "Method", "arguments_of", "whole_of"]

Attacked = Callable[[Tensor, Tensor], Tensor]
"""Images (B, 3, H, W) float32 in [0, 1] and the labels (B,) to get away from → images of the same shape."""

REQUIRED = inspect.Parameter.empty
"""Default of an argument that has none."""
EPSILONS = ("eps", "max_epsilon")
"""What libraries call the size of an attack."""


class Method(Protocol):
    """An attack by its name."""

    title: str
    """As messages name it."""
    arguments: Mapping[str, Any]
    """Names and defaults of its parameters."""
    whole: frozenset[str]
    """Names of parameters that are whole numbers."""
    takes_any: bool
    """Whether it takes parameters of other names, too."""
    needs_gradient: bool
    code: str
    """Digest of the user's code behind it; empty for a library."""

    def bound(self, parameters: Mapping[str, Any]) -> float | None:
        """The L∞ size that it promises with these parameters; None where it promises none."""

    def build(self, classifier: Classifier, parameters: Mapping[str, Any], seed: int) -> Attacked:
        """The attack on a classifier. `seed` is for attacks that seed themselves; others draw from torch and numpy."""


def whole_of(function: Callable[..., Any]) -> frozenset[str]:
    """Names of a function's parameters that are said to be whole numbers."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.annotation in (int, "int"))


def arguments_of(function: Callable[..., Any], skip: int) -> dict[str, Any]:
    """Names and defaults of a function's parameters after the first few."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

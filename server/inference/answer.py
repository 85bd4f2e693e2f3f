"""An `InferenceResult` and a caller's disclosure → **an `Answer`: what that caller is told**, whatever the protocol.

Here it is decided, and nowhere else: a protocol writes its messages from an `Answer`. What a caller is not told is left
out; nothing is put in its place, and nobody gets an error for having asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.access.disclosure import Disclosure
from server.inference.request import InferenceResult
from server.models.served_model import ServedModel

__all__ = ["Answer", "disclosed"]


@dataclass(slots=True)
class Answer:
    """Of one image: what the classifier says of it, and of what the detector found as much as the caller may know."""

    model: ServedModel
    label: int
    """The classifier's prediction."""
    probability: float
    top: tuple[tuple[int, float], ...]
    """The classifier's most probable classes, best first."""
    attacked: bool | None
    """None: it is not told."""
    false_positive_rate: float | None
    """At which that was decided; None: it is not told."""
    details: InferenceResult | None
    """Everything else: p-value, score, other labels, error rate, heatmap, times; None: it is not told."""


def disclosed(result: InferenceResult, disclosure: Disclosure) -> Answer:
    """What a caller with this disclosure is told of a result."""
    verdict, told = result.verdict, disclosure is not Disclosure.NONE
    return Answer(
        result.model,
        verdict.label,
        verdict.probability,
        verdict.top,
        result.attacked if told else None,
        result.false_positive_rate if told else None,
        result if disclosure is Disclosure.FULL else None,
    )

"""The classifier under guard: a spec in, a `Classifier` out that gives logits, gradients and inner layers."""

from detector.classifier.classifier import (
    TRUSTED_MODULES,
    Classifier,
    ClassifierSource,
    ClassifierSpec,
    Preprocessing,
    load_classifier,
)

__all__ = [
    "TRUSTED_MODULES",
    "Classifier",
    "ClassifierSource",
    "ClassifierSpec",
    "Preprocessing",
    "load_classifier",
]

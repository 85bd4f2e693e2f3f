"""The witness that a job makes itself, of a classifier that shows no gradients or no layers: what it is and where.

`training.fitting.distillation` trains it on the classifier's answers; its weights lie in one file of the work folder,
which carries the digest of all that decided them.
"""

from __future__ import annotations

from pathlib import Path

from detector.classifier import Classifier, ClassifierSpec, Preprocessing, load_classifier
from training.settings import DistillationSettings
from training.shards import digest_of, read_shard

__all__ = ["FILE", "read_witness", "witness_spec"]

FILE = Path("witness/witness.safetensors")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def witness_spec(classifier: Classifier, settings: DistillationSettings) -> ClassifierSpec:
    """A small net of the classifier's classes, for images of its shape, at most `side` along the shorter side."""
    height, width = classifier.input_size
    scale = min(1.0, settings.side / min(height, width))
    return ClassifierSpec(
        source="python:detector.architectures:CifarNet",
        arguments={"widths": list(settings.widths), "classes": classifier.num_classes},
        input_size=(round(height * scale), round(width * scale)),
        preprocessing=Preprocessing(mean=MEAN, std=STD),
        classes=classifier.classes,
    )


def read_witness(
    work: Path, made_from: str, classifier: Classifier, settings: DistillationSettings
) -> Classifier | None:
    """The witness, if it was made from this; None where it was not.

    Raises:
        DataError: Its file cannot be read.
    """
    if digest_of(work / FILE) != made_from:
        return None
    weights = read_shard(work / FILE)
    return load_classifier(witness_spec(classifier, settings), device=classifier.device, state_dict=weights)

"""A classifier that another server computes: is it still the model that this work folder was made with?

Its weights cannot be seen, and its fingerprint does not tell two models of one name apart. So its answers about a few
made-up images lie in the work folder, `answers.safetensors`, and take part in the digests of all that is made: where
they change, everything is made again.
"""

from __future__ import annotations

from pathlib import Path

from detector.classifier import Classifier
from detector.errors import DataError, FingerprintMismatchError
from training.config import TrainingConfig
from training.progress import Progress
from training.runners.worker import load_classifiers
from training.shards import digest, read_shard, write_shard

__all__ = ["known_by", "open_classifiers"]

ANSWERS = Path("answers.safetensors")
SERVED = "kserve"


def open_classifiers(
    config: TrainingConfig, classes: tuple[str, ...], progress: Progress, *, remember: bool
) -> tuple[Classifier, Classifier | None]:
    """The classifier to guard, and the witness if there is one.

    Args:
        config: The job's.
        classes: Class names in the order of the logits.
        progress: Told of another model.
        remember: False writes nothing.

    Raises:
        ClassifierError: One of them cannot be used.
    """
    path = config.work / ANSWERS
    if config.classifier.kind != SERVED:
        return load_classifiers(config, classes)
    try:
        before = read_shard(path) if path.exists() else None
    except DataError:  # damaged: asked anew
        before = None
    try:
        found = load_classifiers(config, classes, (before, None))
    except FingerprintMismatchError:
        if before is None:
            raise
        progress.note("classifier: the served model answers otherwise than in the last run: everything is made again")
        found = load_classifiers(config, classes)
    if remember:
        write_shard(path, found[0].state_dict(), known_by(found[0]))
    return found


def known_by(classifier: Classifier) -> str:
    """Its fingerprint; of a served model, a digest of that and of its answers."""
    if classifier.spec.kind != SERVED:
        return classifier.fingerprint
    said = {name: answers.tolist() for name, answers in classifier.state_dict().items()}
    return digest([classifier.fingerprint, said])

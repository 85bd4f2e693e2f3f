"""What the demonstration sends: photographs in; clean, noise-twin and attacked images out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import DataError, ImageError
from detector.images import decode
from training.attacks import attack_images, noise_twin
from training.config import AttackSpec
from training.data.folders import SUFFIXES, find_images
from training.stages.attack import predict

__all__ = ["ATTACKS", "CLEAN", "SAMPLES", "TWIN", "Case", "Photograph", "load_photographs", "make_cases"]

SAMPLES = Path(__file__).parents[2] / "detector" / "embedded" / "samples"
CLEAN, TWIN = "clean", "random noise"
ATTACKS = {
    "PGD 8/255": AttackSpec(
        name="PGD", label="pgd", family="iterative", parameters={"eps": "8/255", "alpha": "2/255", "steps": 10}
    ),
    "CW": AttackSpec(name="CW", label="cw", family="minimum-norm", parameters={"c": 1, "steps": 40, "lr": 0.01}),
    "Square 8/255": AttackSpec(
        name="Square", label="square", family="score-based", parameters={"eps": "8/255", "n_queries": 250}
    ),
}


@dataclass(frozen=True)
class Photograph:
    """One image as the classifier sees it."""

    name: str
    truth: str  # "" where unknown
    pixels: Tensor  # (3, H, W) uint8


@dataclass(frozen=True)
class Case:
    """One image to send."""

    kind: str
    photograph: Photograph
    pixels: Tensor  # (3, H, W) uint8
    origin: str
    """The classifier's prediction on the clean photograph."""
    attacked: bool
    worked: bool
    """An attack that changed the prediction; False for images that were not attacked."""


def load_photographs(folder: Path, classifier: Classifier, count: int) -> list[Photograph]:
    """The first `count` photographs, classes in turn; folders named after a class tell the truth.

    Raises:
        DataError: the folder holds no images, or one of them cannot be read.
    """
    files: dict[Path, list[Path]] = {}
    for path in find_images([folder]).files[0] if folder.is_dir() else ():
        files.setdefault(path.parent, []).append(path)
    in_turn = [path for row in zip_longest(*files.values()) for path in row if path is not None]
    if not in_turn:
        raise DataError(f"no photographs in {folder}: expected {', '.join(SUFFIXES)} files, in class folders")
    photographs = []
    for path in in_turn[:count]:
        try:
            pixels = (classifier.prepare(decode(path.read_bytes())) * 255).round().to(torch.uint8)
        except (OSError, ImageError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        truth = path.parent.name if path.parent.name in classifier.classes else ""
        photographs.append(Photograph(path.relative_to(folder).as_posix(), truth, pixels))
    return photographs


def make_cases(
    photographs: Sequence[Photograph],
    classifier: Classifier,
    *,
    seed: int = 0,
    advance: Callable[[str], None] = lambda kind: None,
) -> list[Case]:
    """Every photograph clean, with random noise, and under every attack.

    Args:
        photographs: at least one.
        classifier: the classifier to fool.
        seed: of attacks and noise.
        advance: told of every attack once it is done.
    """
    clean = torch.stack([photograph.pixels for photograph in photographs])
    origin = predict(classifier, clean, len(clean))
    made = {CLEAN: clean, TWIN: noise_twin(clean, 8 / 255, seed)}
    for kind, attack in ATTACKS.items():
        made[kind] = attack_images(attack, classifier, clean, origin, seed=seed, batch_size=32)
        advance(kind)
    cases = []
    for kind, images in made.items():
        changed = predict(classifier, images, len(images)) != origin
        attacked = kind in ATTACKS
        for at, photograph in enumerate(photographs):
            label = classifier.classes[int(origin[at])]
            worked = attacked and bool(changed[at])
            cases.append(Case(kind, photograph, images[at], label, attacked, worked))
    return cases

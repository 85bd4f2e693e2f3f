"""What the demonstration sends: photographs in; clean, noise-twin and attacked images out, one attack as JPEG, too.

A file that an attacker wrote is seldom the file that arrives: JPEG changes every pixel, and undoes some attacks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import DataError, ImageError
from detector.images import decode
from training.attacks import attack_images, noise_twin
from training.config import AttackSpec
from training.data.folders import SUFFIXES, find_images
from training.stages.attack import predict

__all__ = [
    "ATTACKS",
    "CLEAN",
    "DELIVERED",
    "LOSSLESS",
    "SAMPLES",
    "TWIN",
    "Case",
    "Photograph",
    "load_photographs",
    "make_cases",
]

SAMPLES = Path(__file__).parents[2] / "detector" / "embedded" / "samples"
CLEAN, TWIN = "clean", "random noise"
LOSSLESS, DELIVERED = "PGD 8/255", "PGD as JPEG 90"
JPEG: Mapping[str, int | str] = {"quality": 90, "subsampling": "4:2:0"}
ATTACKS = {
    LOSSLESS: AttackSpec(
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
    file: bytes | None = None
    """The JPEG file that these pixels were read from; None: they are sent as they are."""


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
    """Every photograph clean, with random noise, and under every attack; those of `LOSSLESS` as JPEG files, too.

    Args:
        photographs: at least one.
        classifier: the classifier to fool.
        seed: of attacks and noise.
        advance: told of every attack once it is done.
    """
    clean = torch.stack([photograph.pixels for photograph in photographs])
    origin = predict(classifier, clean, len(clean))
    made = {CLEAN: clean, TWIN: noise_twin(clean, 8 / 255, seed)}
    files: list[bytes] = []
    for kind, attack in ATTACKS.items():
        made[kind] = attack_images(attack, classifier, clean, origin, seed=seed, batch_size=32)
        if kind == LOSSLESS:
            files = [_jpeg(image) for image in made[kind]]
            made[DELIVERED] = torch.stack([torch.from_numpy(decode(file)).permute(2, 0, 1) for file in files])
        advance(kind)
    cases = []
    for kind, images in made.items():
        changed = predict(classifier, images, len(images)) != origin
        attacked = kind not in (CLEAN, TWIN)
        for at, photograph in enumerate(photographs):
            label = classifier.classes[int(origin[at])]
            worked = attacked and bool(changed[at])
            file = files[at] if kind == DELIVERED else None
            cases.append(Case(kind, photograph, images[at], label, attacked, worked, file))
    return cases


def _jpeg(image: Tensor) -> bytes:
    """(3, H, W) uint8 as a file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", **JPEG)
    return file.getvalue()

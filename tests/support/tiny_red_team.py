"""A bundle of the tiny classifier, photographs for it, and white-box attacks that are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from tiny_bundle import tiny_bundle
from torch import Tensor

from detector.bundle import Bundle, load_bundle, save_bundle
from detector.classifier import Classifier
from detector.detector import Detector
from training.redteam import access
from training.redteam.oblivious import pgd
from training.redteam.values import Budget, Outcome

ALLOW = ("tiny",)
made: list[str] = []
"""What attacks were made, by name."""


def bundle_at(path: Path, classifier: Classifier) -> Bundle:
    save_bundle(path, tiny_bundle(classifier))
    return load_bundle(path)


def detector_of(bundle: Bundle) -> Detector:
    return Detector.assemble(bundle, allow=ALLOW)


def write_photographs(folder: Path, count: int = 24, *, seed: int = 21, side: int = tiny.SIDE) -> Path:
    """Photographs in class folders."""
    drawn = tiny.images(count, seed=seed)
    pixels = drawn.images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for number, (array, label) in enumerate(zip(pixels, drawn.labels.tolist(), strict=True)):
        place = folder / tiny.CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(array)
        if side != tiny.SIDE:
            picture = picture.resize((side, side), Image.Resampling.NEAREST)
        picture.save(place / f"{number:03d}.png")
    return folder


def gradient(detector: Detector, images: Tensor, rate: float, budget: Budget, seed: int) -> Outcome:
    """PGD that asks the detector afterwards which of the images it flags."""
    made.append("gradient")
    found = pgd(detector.classifier, images, budget, seed)
    p_value = torch.tensor([each.p_value for each in detector.detect(found.images)], dtype=torch.float64)
    return Outcome(found.images, found.fools, p_value, found.spent, found.cpu_s, found.curve)


def idle(detector: Detector, images: Tensor, rate: float, budget: Budget, seed: int) -> Outcome:
    """Does nothing: no check must pass."""
    made.append("idle")
    nothing = torch.zeros(len(images), dtype=torch.long)
    return Outcome(images, nothing > 0, torch.ones(len(images), dtype=torch.float64), nothing, 0.0)


def install(patch: pytest.MonkeyPatch, **attacks: object) -> None:
    """Have the red team find these attacks, and no others."""
    patch.setattr(access, "WHITE_BOX", attacks)
    made.clear()

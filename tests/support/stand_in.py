"""Detectors for load: they take the time that they are told to, compute next to nothing, and keep no record."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
from fake_detector import FakeClassifier, FakeDetector
from numpy.typing import NDArray
from torch import Tensor

from detector.detector import Verdict
from detector.errors import BundleDamagedError

__all__ = ["SIDE", "Labelling", "StandIn", "load_letter"]

SIDE = 32
BATCH_S, IMAGE_S = 0.004, 0.001
DAMAGED = "!"
_loads = count()


class FreeClassifier(FakeClassifier):
    """Ten classes of nothing."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.classes = tuple(f"class {index}" for index in range(10))
        self.num_classes = 10
        self.input_size = (SIDE, SIDE)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels


class StandIn(FakeDetector):
    """One answer for every image, which spends no CPU.

    Args:
        cost: Seconds that a batch of so many images takes.
    """

    def __init__(self, cost: Callable[[int], float]) -> None:
        super().__init__()
        self.classifier = FreeClassifier(f"{next(_loads):016x}" * 4)  # another version with each load
        self._cost = cost
        labels = tuple((index, 0.9 / (index + 1)) for index in range(5))
        self._verdict = Verdict(0, 0.9, labels, 0.1, 0.5, labels, labels[0], np.zeros((4, 4), np.float32))

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        if (seconds := self._cost(len(images))) > 0:
            time.sleep(seconds)
        return [self._verdict] * len(images)


class Labelling(FakeDetector):
    """Answers each image with its own label, after some milliseconds, so that a flood makes a queue."""

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        time.sleep(BATCH_S + IMAGE_S * len(images))
        try:
            return super().detect(images)
        finally:
            self.forget()  # a record would look like a leak


def load_letter(path: Path, device: str) -> Labelling:
    """A detector from a bundle that is a file of one letter, which names its version; "!" is a damaged one.

    Raises:
        BundleDamagedError: It is a "!".
    """
    letter = path.read_text(encoding="utf-8")
    if letter == DAMAGED:
        raise BundleDamagedError(f"{path}: network.safetensors differs from its sha256")
    return Labelling(name=letter)

"""A detector whose answers can be told in advance from the image, so that the service can be tested without a model.

The label is the red value of the first pixel; an image whose first pixel is (13, 13, 13) makes detection fail
(`cursed=None`: none does).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.detector import Detector, Verdict
from detector.scoring.calibration import Calibration
from detector.scoring.reliability import Reliability
from detector.scoring.tail import TailEstimate

CURSED = 13
SIZE = 8


class FakeClassifier(Classifier):
    def __init__(self, fingerprint: str) -> None:
        self.classes = tuple(f"class-{i}" for i in range(256))
        self.num_classes = 256
        self.input_size = (SIZE, SIZE)
        self.fingerprint = fingerprint
        self._net = nn.Identity()

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if pixels.shape[:2] != self.input_size:
            pixels = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.NEAREST))
        return pixels


class FakeDetector(Detector):
    def __init__(self, *, name: str = "f", cursed: int | None = CURSED) -> None:
        self.classifier = FakeClassifier(name * 64)  # the first 16 characters are the version
        self.calibration = Calibration.fit(torch.arange(199.0))
        self.manifest = None
        self.reliability: Reliability | None = None
        self.tail: TailEstimate | None = None  # of every image, as is its calibration group
        self.group = ""
        self.cursed = cursed
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []  # labels, after warm-up
        self.lethal = False
        self.warmed: list[int] = []
        self.threads: set[str] = set()

    def warm_up(self, sizes: Iterable[int]) -> None:
        self.warmed = list(sizes)

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        labels = (images[:, 0, 0, 0] * 255).round().int().tolist()
        self.threads.add(threading.current_thread().name)
        self.batches.append(labels)
        self.entered.set()
        self.gate.wait(10)
        if self.lethal:
            raise SystemExit("the engine is told to die")
        if self.cursed in labels:
            raise ValueError("unlucky")
        scores = torch.tensor([float(label) for label in labels])
        return [
            Verdict(
                label=label,
                probability=0.75,
                top=tuple((label, 0.75 / (i + 1)) for i in range(5)),
                attack_score=float(label),
                p_value=float(p),
                recovered=((1, 0.9), (2, 0.1)),
                corrected=(1, 0.8),
                heatmap=np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4),
                error_rate=None if self.reliability is None else max(label, 1) / 255,
                calibration_group=self.group,
                tail=self.tail,
                patch=label / 255 if self.looks_for_patches else None,
            )
            for label, p in zip(labels, self.calibration.p_value(scores), strict=True)
        ]

    def forget(self) -> None:
        """Clears what was recorded, the warm-up with it."""
        for record in (self.batches, self.threads):
            record.clear()
        self.entered.clear()

"""`python -m benchmarks.serving.chaos_fake [settings …]`: `heatward serve` with a fake detector.

A bundle is a file of one letter, which names the detector's version; "!" is a damaged one. An image's label is the red
value of its first pixel, and a batch takes some milliseconds, so that a flood makes a queue.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fake_detector import FakeDetector
from torch import Tensor

from detector.detector import Verdict
from detector.errors import BundleDamagedError
from server.app import run
from server.load import load_config

BATCH_S, IMAGE_S = 0.004, 0.001


class Busy(FakeDetector):
    """Takes its time, and keeps no record: that would look like a leak."""

    def detect(self, images: Tensor) -> list[Verdict]:
        time.sleep(BATCH_S + IMAGE_S * len(images))
        try:
            return super().detect(images)
        finally:
            self.forget()


def load(path: Path, device: str) -> Busy:
    letter = path.read_text()
    if letter == "!":
        raise BundleDamagedError(f"{path}: network.safetensors differs from its sha256")
    return Busy(name=letter)


if __name__ == "__main__":
    sys.exit(run(load_config(sys.argv[1:]), load))  # type: ignore[arg-type]

"""Run by a test: `python serve_fake.py broken|GATE [settings …]` serves a fake detector in a process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from fake_detector import FakeDetector
from torch import Tensor

from detector.detector import Verdict
from detector.errors import BundleDamagedError
from server.app import run
from server.load import load_config


def broken(path: Path, device: str) -> FakeDetector:
    raise BundleDamagedError("network.safetensors differs from its sha256")


class Gated(FakeDetector):
    """Once warm (on grey images), answers nothing before the gate, a file, is there."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        assert not torch.backends.cudnn.allow_tf32  # whatever is loaded computes as it was calibrated
        self._file = gate

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        while not (self._file.exists() or bool((images == 0.5).all())):
            time.sleep(0.01)
        return super().detect(images)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    load: Any = broken if what == "broken" else lambda path, device: Gated(Path(what))
    sys.exit(run(load_config(arguments), load))

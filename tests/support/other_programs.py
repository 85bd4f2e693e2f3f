"""For tests against programs that are not ours: an environment for them, and images to send."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.images import decode
from examples.demo.images import ATTACKS
from training.attacks import attack_images
from training.stages.attack import predict


def install(home: Path, *packages: str) -> Path:
    """Makes an environment and returns its bin/."""
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", *packages], check=True)
    return home / "bin"


def clean_and_attacked(detector: Detector) -> NDArray[np.uint8]:
    """A photograph of a cat, and the same one attacked: (2, 32, 32, 3)."""
    sample = min((EMBEDDED.parent / "samples/cat").iterdir())
    clean = (detector.classifier.prepare(decode(sample.read_bytes()))[None] * 255).round().byte()
    origin = predict(detector.classifier, clean, 1)
    attacked = attack_images(ATTACKS["PGD 8/255"], detector.classifier, clean, origin, seed=0, batch_size=1)
    return torch.cat([clean, attacked]).permute(0, 2, 3, 1).contiguous().numpy()

"""A whole training job in seconds: 100 images of the tiny problem, its classifier, a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
from PIL import Image
from safetensors.torch import save_file

from training.config import TrainingConfig
from training.load import load_config

CONFIG = """
seed = 3
threads = 1
shard_size = 16
batch_size = 8
[classifier]
source = "python:tiny:net"
input_size = [16, 16]
preprocessing = {{ mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }}
classes = ["horizontal", "vertical", "diagonal", "checker"]
weights = "{folder}/net.safetensors"
[witness]
source = "python:tiny:net"
input_size = [16, 16]
preprocessing = {{ mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }}
weights = "{folder}/witness.safetensors"
[images]
source = "{folder}/images"
splits = {{ calibrate = 24, test = 20, tune = 16 }}
[twins]
sizes = ["8/255"]
[evidence]
views = {{ noise = [8.0], noise_draws = 1, shifts = [], blur = false, rescale = [] }}
[fit]
epochs = 2
ensemble = 1
width = 16
token = 8
heads = 2
[evaluate]
resamples = 10
[[attacks]]
name = "FGSM"
label = "fgsm"
family = "one-step"
parameters = {{ eps = {{ uniform = ["16/255", "32/255"] }} }}
[[attacks]]
name = "PGD"
label = "pgd"
family = "iterative"
parameters = {{ eps = "16/255", alpha = {{ of_eps = 0.25 }}, steps = 3 }}
limit = {{ fit = 30 }}
"""


def write_source(folder: Path, images: int = 100) -> Path:
    """Images in class folders, weights and `config.toml`."""
    drawn = tiny.images(images, seed=11)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        directory = folder / "images" / tiny.CLASSES[label]
        directory.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(directory / f"{number:03d}.png")
    save_file(tiny.trained_weights(), str(folder / "net.safetensors"))
    save_file(tiny.trained_weights(seed=1), str(folder / "witness.safetensors"))
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    return folder


def configure(source: Path, place: Path, **overrides: object) -> TrainingConfig:
    """The configuration with its work folder and bundle in `place`."""
    return load_config(
        source / "config.toml", {"work": str(place / "work"), "out": str(place / "detector.heatward"), **overrides}
    )

"""What is wrong with a benchmark's words is told before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from benchmarks.robustness import patches, robust_witness
from benchmarks.robustness.deepfool import read_images
from benchmarks.robustness.query_sequences import video
from benchmarks.robustness.query_traffic import paths_of
from detector.bundle import EMBEDDED
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import DataError
from training.config import TrainingConfig
from training.load import load_config
from training.shards import shard_path, write_shard


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """Of a job with clean images of 16×16 pixels."""
    rows = {"images": (tiny.images(4).images * 255).byte(), "truth": torch.zeros(4, dtype=torch.long)}
    write_shard(shard_path(tmp_path, "attack", "test", "clean", 0), rows, "")
    return load_config(
        None,
        {
            "classifier": {"source": "python:tiny:net", "input_size": [16, 16]},
            "images": {"source": str(tmp_path)},
            "attacks": [{"name": "FGSM", "label": "fgsm", "family": "one-step"}],
            "work": str(tmp_path),
        },
    )


def test_photographs_that_are_not_there_are_missed(tmp_path: Path, tiny_classifier: Classifier) -> None:
    with pytest.raises(DataError, match="none: there is no such folder"):
        paths_of([tmp_path / "none"])
    with pytest.raises(DataError, match="no photograph in"):
        paths_of([tmp_path])
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="1 photographs for 2 films"):
        video([tmp_path], 2)
    with pytest.raises(DataError, match="holds 1 images, fewer than --count 2"):
        read_images(tmp_path, 2, tiny_classifier)


@pytest.mark.parametrize("wrong", ["--area 0", "--area .5", "--masks 15", "--masks 1", "--count 0", "--drawn -1"])
def test_numbers_are_what_they_are_said_to_be(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        patches.main(["--config", "none.toml", *wrong.split()])
    assert f"argument {wrong.split()[0]}: " in capsys.readouterr().err


def test_more_wrong_classes_than_there_are_cannot_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        robust_witness.main(["--restarts", "10"])
    assert "10 wrong classes to try, there are 9" in capsys.readouterr().err


def test_images_that_were_made_for_another_classifier_are_not_measured(
    config: TrainingConfig, tiny_classifier: Classifier
) -> None:
    assert len(patches.read_images(config, "test", 3, tiny_classifier).images) == 3
    with pytest.raises(DataError, match="have 16×16 pixels, those of the classifier 32×32: name"):
        patches.read_images(config, "test", 3, Detector.from_bundle(EMBEDDED).classifier)

"""Photographs that are left for a last measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from detector.errors import DataError
from examples.cifar10 import held_out
from training.data.splits import open_splits
from training.load import load_config

CLASSES = ("cat", "dog")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(70):
        for at, name in enumerate(CLASSES):
            for split, grey in (("train", 0), ("test", 1)):
                file = tmp_path / "data" / split / name / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (number, at, grey)).save(file)
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        f"""
work = "{tmp_path / "work"}"
out = "{tmp_path / "x.heatward"}"
attacks = [{{ name = "FGSM", label = "fgsm", family = "one-step" }}]
[classifier]
source = "torchvision:resnet18"
[images]
source = "data/train"
test_source = "data/test"
[images.splits]
calibrate = 10
fit = 20
test = 40
"""
    )
    return file


def test_nothing_that_was_measured_on_is_dealt_again(data: Path, config: Path) -> None:
    parts = held_out.divide(data, 2, config)
    settings = load_config(config)
    places = {"source": str(data / "train"), "test_source": str(data / "test")}
    splits, _ = open_splits(settings.images.model_copy(update=places), None, settings.seed)
    measured = {Path(item.name).resolve() for item in splits["test"].items}
    dealt = [file for files in parts.values() for file in files]
    assert len(measured) == 40 and len({*dealt}) == 8
    assert not measured & {file.resolve() for file in dealt}
    assert all(int(file.stem) >= held_out.FIRST for file in dealt)
    assert [file.parent.name for file in parts["final"]] == ["cat", "cat", "dog", "dog"]


def test_a_class_with_too_few_is_named(data: Path, config: Path) -> None:
    with pytest.raises(DataError, match=r"test/cat: \d+ images are left, 40 wanted"):
        held_out.divide(data, 20, config)


def test_links_stay_when_it_runs_again(data: Path, config: Path) -> None:
    for _ in range(2):
        held_out.main([str(data), "--images", "2", "--config", str(config)])
    linked = sorted((data / "final").glob("*/*.png"))
    assert len(linked) == 4 and all(file.read_bytes() for file in linked)

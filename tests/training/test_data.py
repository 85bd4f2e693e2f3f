"""Images come in whole, in balanced splits that never share a source image, or with an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from notes import Notes
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detector.errors import ConfigError, DataError
from training.config import ImagesConfig
from training.data import open_splits

CLASSES = ("dog", "cat")


def prepare(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.resize(pixels, (4, 4, 3)).copy()).permute(2, 0, 1) / 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 cats (blue 0…19) and 40 dogs (blue 100…139)."""
    for name, count, start in (("cat", 20, 0), ("dog", 40, 100)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4), (1, 2, start + number)).save(tmp_path / name / f"{number:03d}.png")
    return tmp_path


def config(folder: Path, **settings: object) -> ImagesConfig:
    return ImagesConfig.model_validate({"source": str(folder), **settings})


def test_splits_share_no_image_and_use_all(folder: Path) -> None:
    splits, _ = open_splits(config(folder), None, seed=0)
    indices = [item.index for split in splits.values() for item in split.items]
    assert sorted(indices) == list(range(60))
    assert {name: len(split) for name, split in splits.items()} == {"fit": 36, "calibrate": 12, "test": 12, "tune": 0}


def test_test_source_shares_neither_ids_nor_photographs(folder: Path) -> None:
    splits, _ = open_splits(
        config(folder, test_source=str(folder), splits={"calibrate": 10, "test": 7, "tune": 5}), None, seed=0
    )
    # the 7 test images lie in the other source, too: left out there
    assert {name: len(split) for name, split in splits.items()} == {"fit": 38, "calibrate": 10, "test": 7, "tune": 5}
    tested = {item.name for item in splits["test"].items}
    assert not tested & {item.name for name, split in splits.items() if name != "test" for item in split.items}
    others = (split for name, split in splits.items() if name != "test")
    source = {item.index for split in others for item in split.items}
    assert not source & {item.index for item in splits["test"].items}


def test_every_prefix_is_balanced(folder: Path) -> None:
    items = open_splits(config(folder), None, seed=3)[0]["fit"].items
    for count in (6, 12, 30):
        cats = sum(item.truth == 0 for item in items[:count])
        assert abs(cats - count / 3) <= 1.5


def test_same_seed_same_splits(folder: Path) -> None:
    def order(seed: int) -> list[int]:
        return [item.index for item in open_splits(config(folder), None, seed)[0]["fit"].items]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_truth_is_the_classifiers_index_not_the_folders(folder: Path) -> None:
    splits, classes = open_splits(config(folder), CLASSES, seed=0)
    assert classes == CLASSES
    images = splits["fit"].read(0, 10, prepare)
    dog = images.pixels[:, 2, 0, 0] >= 100
    assert torch.equal(images.truth, torch.where(dog, 0, 1))


def test_names_that_the_classifier_knows_are_taken_where_the_folders_are_among_them(folder: Path) -> None:
    known = ("zebra", *CLASSES[::-1], "ant")
    splits, classes = open_splits(config(folder), None, seed=0, known=known)
    assert classes == known  # in the order of the logits, and more of them than folders
    truths = {truth for split in splits.values() for truth in [item.truth for item in split.items]}
    assert {known[truth] for truth in truths} == {*CLASSES}
    assert open_splits(config(folder), CLASSES, seed=0, known=known)[1] == CLASSES
    notes = Notes()
    assert open_splits(config(folder), None, 0, notes, known=("n01440764", "ant"))[1] == ("cat", "dog")
    assert any("no class that the classifier knows, such as 'n01440764'" in note for note in notes.notes)
    assert open_splits(config(folder, labelled=False), None, seed=0, known=known)[1] == known


def test_read_gives_pixels_untouched(folder: Path) -> None:
    split = open_splits(config(folder), None, seed=0)[0]["test"]
    images = split.read(2, 5, prepare)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape == (3, 3, 4, 4)
    assert images.pixels[:, 2, 0, 0].tolist() == [
        item.index if item.truth == 0 else item.index + 80 for item in split.items[2:5]
    ]


@pytest.mark.parametrize(("end", "cats"), [("first", range(5)), ("last", range(15, 20))])
def test_ends_of_each_class(folder: Path, end: str, cats: range) -> None:
    splits, _ = open_splits(config(folder, **{end: 5}), None, seed=0)
    items = [item for split in splits.values() for item in split.items]
    assert sorted(item.index for item in items if item.truth == 0) == list(cats)
    assert len(items) == 10


def test_unknown_class_folder(folder: Path) -> None:
    with pytest.raises(DataError, match=r"class folder 'dog'.*did you mean 'dogs'.*labelled = false"):
        open_splits(config(folder), ("cat", "dogs"), seed=0)
    splits, _ = open_splits(config(folder, labelled=False), ("x", "y"), seed=0)
    assert {item.truth for item in splits["fit"].items} == {-1}


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_splits(config(tmp_path / "none"), None, seed=0)
    with pytest.raises(DataError, match="holds no images"):
        open_splits(config(tmp_path), None, seed=0)


def test_images_without_class_folders_say_how(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="labelled = false"):
        open_splits(config(tmp_path), CLASSES, seed=0)
    with pytest.raises(ConfigError, match="class names are unknown"):
        open_splits(config(tmp_path, labelled=False), None, seed=0)


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_unreadable_image_is_named_or_skipped(folder: Path, damage: bytes | None) -> None:
    bad = folder / "cat" / "007.png"
    bad.write_bytes(bad.read_bytes()[:45] if damage is None else damage)
    splits, _ = open_splits(config(folder), None, seed=0)
    split = next(split for split in splits.values() if str(bad) in {item.name for item in split.items})
    with pytest.raises(DataError, match=r"007\.png cannot be read.*skip_unreadable"):
        split.read(0, len(split), prepare)
    images = split.read(0, len(split), prepare, skip_unreadable=True)
    assert images.skipped == (str(bad),)
    assert len(images.pixels) == len(images.index) == len(split) - 1
    assert 7 not in images.index


def test_too_few_images(folder: Path) -> None:
    with pytest.raises(DataError, match="61 images wanted, 60 there"):
        open_splits(config(folder, splits={"calibrate": 61}), None, seed=0)
    with pytest.raises(DataError, match="split 'fit' gets no image"):
        open_splits(config(folder, splits={"calibrate": 40, "test": 20}), None, seed=0)
    with pytest.raises(ConfigError, match="share"):
        open_splits(config(folder, splits={"calibrate": 1.5}), None, seed=0)


def test_torchvision_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Fake:
        classes = ("cat", "dog")

        def __init__(self, root: str, train: bool = True) -> None:
            self.targets = [0, 1] * (10 if train else 3)

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, position: int) -> tuple[Image.Image, int]:
            return Image.new("L", (4, 4), position), self.targets[position]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    images = ImagesConfig(source="torchvision:CIFAR10", test_source="torchvision:CIFAR10")
    splits, classes = open_splits(images, None, seed=0)
    assert classes == ("cat", "dog")
    assert len(splits["test"]) == 6
    assert splits["test"].read(0, 6, prepare).pixels.shape == (6, 3, 4, 4)
    with pytest.raises(ConfigError, match="did you mean 'CIFAR10'"):
        open_splits(ImagesConfig(source="torchvision:CIFAR-10"), None, seed=0)


def test_a_split_of_one_source_has_it_at_hand_and_one_of_several_says_so(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    splits, _ = open_splits(config(folder), None, seed=0)
    for split in splits.values():
        assert all((split.source.pixels(item.position) == split.pixels(item)).all() for item in split.items)
    more = tmp_path_factory.mktemp("more") / "cat"
    more.mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(more / "000.png")
    splits, _ = open_splits(config(folder, fit_sources=[str(more.parent)]), ("cat", "dog"), seed=0)
    with pytest.raises(DataError, match="pixels"):
        _ = splits["fit"].source

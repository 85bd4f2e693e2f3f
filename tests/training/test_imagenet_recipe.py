import zipfile
from pathlib import Path

import pytest
import torch

from detector.errors import DataError
from examples.imagenet.recipe import renamed, unpack

CLASSES = ("n01440764", "n01443537")


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_photographs_land_in_folders_named_by_wordnet_id(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", "0000_n01440764/tench's.jpg", "0001_n01443537/goldfish.JPEG", "README.txt")

    assert unpack(archive, tmp_path / "images", CLASSES) == 2

    assert (tmp_path / "images/n01440764/tench's.jpg").read_text() == "0000_n01440764/tench's.jpg"
    assert (tmp_path / "images/n01443537/goldfish.JPEG").exists()


def test_a_photograph_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764/tench.jpg").write_text("mine")

    unpack(zipped(tmp_path / "a.zip", "0000_n01440764/tench.jpg"), tmp_path, CLASSES)

    assert (tmp_path / "n01440764/tench.jpg").read_text() == "mine"


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", "0000_n01440764/../../out.jpg", "../0000_n01440764/out.jpg")

    with pytest.raises(DataError, match="holds no photographs"):
        unpack(archive, tmp_path / "images", CLASSES)

    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_an_index_of_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 1 is not n01440764"):
        unpack(zipped(tmp_path / "a.zip", "0001_n01440764/tench.jpg"), tmp_path, CLASSES)


def test_what_is_no_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no zip")

    with pytest.raises(DataError, match=r"a\.zip cannot be read"):
        unpack(tmp_path / "a.zip", tmp_path, CLASSES)


def test_weights_take_the_names_of_the_same_layers() -> None:
    theirs = {"_stem.weight": torch.ones(2, 3), "_fc.bias": torch.zeros(2)}
    ours = {"stem.weight": torch.zeros(2, 3), "classifier.bias": torch.zeros(2)}

    assert list(renamed(theirs, ours)) == ["stem.weight", "classifier.bias"]
    assert renamed(theirs, ours)["stem.weight"].sum() == 6


@pytest.mark.parametrize("ours", [{"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3), "b": torch.zeros(1)}])
def test_weights_of_other_layers_are_refused(ours: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="cannot become"):
        renamed({"_a": torch.zeros(2, 3)}, ours)

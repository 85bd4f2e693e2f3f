"""What counts as an image or a class in a folder of the real world, and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from detector.errors import DataError
from training.data.sources import FolderSource


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    return path


def names(source: FolderSource) -> list[str]:
    return [path.relative_to(source.root).as_posix() for path in source.paths]


def test_hidden_and_system_files_are_neither_images_nor_classes(tmp_path: Path) -> None:
    for name in (
        "cat/a.png", "cat/._a.png", "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/@eaDir/a.png", "cat/Thumbs.db",
        "dog/b.png", "dog/desktop.ini", ".ipynb_checkpoints/c.png", "__MACOSX/cat/a.png", "@eaDir/d.png",
        "$RECYCLE.BIN/e.png", "System Volume Information/f.png", "lost+found/g.png", ".DS_Store",
    ):  # fmt: skip
        picture(tmp_path / name)
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert names(source) == ["cat/a.png", "dog/b.png"]
    assert source.notes == ()
    assert names(FolderSource(tmp_path, labelled=False)) == ["cat/a.png", "dog/b.png"]


def test_every_spelling_of_a_jpeg_is_read(tmp_path: Path) -> None:
    for suffix in ("jpg", "JPEG", "jfif", "jpe", "Jif", "PNG", "webp"):
        picture(tmp_path / "cat" / f"a.{suffix}")
    assert len(FolderSource(tmp_path)) == 7


def test_what_is_left_out_is_counted_and_said(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.TIF", "cat/c.tif", "cat/d.bmp", "cat/README", "loose.jpg", "loose.gif"):
        picture(tmp_path / name)
    (tmp_path / "bird").mkdir()
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    said = " / ".join(FolderSource(tmp_path).notes)
    assert "left out 6 files that are no JPEG, PNG or WebP: 2 .tif, " in said
    for each in ("1 .bmp", "1 .gif", "1 without suffix", "1 links to nothing"):
        assert each in said
    assert "left out 1 images that lie beside the class folders" in said
    assert "1 class folders hold no image: bird" in said


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "images"
    picture(root / "cat/a.png")
    picture(root / "dog/b.png")
    picture(tmp_path / "elsewhere/deep/c.png")
    (root / "cat/more").symlink_to(tmp_path / "elsewhere")
    (root / "cat/loop").symlink_to(root)
    (root / "cat/dogs").symlink_to(root / "dog")  # dog's own place wins, although cat comes first
    (root / "bird").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "elsewhere/deep/back").symlink_to(tmp_path / "elsewhere")
    source = FolderSource(root)
    assert [path.resolve().name for path in source.paths].count("c.png") == 1
    assert "cat/a.png" in names(source) and "dog/b.png" in names(source) and len(source) == 3
    assert any("linked folders" in note for note in source.notes)


def test_a_link_back_does_not_bring_loose_images_into_a_class(tmp_path: Path) -> None:
    picture(tmp_path / "cat/a.png")
    picture(tmp_path / "loose.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    source = FolderSource(tmp_path)
    assert names(source) == ["cat/a.png"]
    assert any("left out 1 linked folders" in note for note in source.notes)


@pytest.mark.parametrize("named", [".", "..", "cat/.."])
def test_the_folder_where_one_stands_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    picture(tmp_path / "cat/a.png")
    monkeypatch.chdir(tmp_path / "cat" if named == ".." else tmp_path)
    assert len(FolderSource(Path(named), labelled=False)) == 1


def test_a_linked_class_folder_is_a_class(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/cat").symlink_to(tmp_path / "elsewhere")
    assert names(FolderSource(tmp_path / "images")) == ["cat/a.png"]


def test_no_image_says_what_is_there_instead(tmp_path: Path) -> None:
    picture(tmp_path / "cat/a.tif")
    with pytest.raises(DataError, match=r"holds no images.*left out 1 files .*1 \.tif"):
        FolderSource(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        FolderSource(picture(tmp_path / "file.png"))


def test_a_class_name_that_no_file_could_hold_is_refused(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"caf\\xe9 has a name that is no UTF-8"):
        FolderSource(tmp_path)

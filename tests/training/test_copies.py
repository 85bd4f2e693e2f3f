"""Copies of one photograph stay in one split, are counted, and change nothing where there are none."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from notes import Notes
from PIL import Image, ImageDraw

from detector.errors import DataError
from training.config import ImagesConfig, Split
from training.data import SplitImages, open_splits
from training.data.copies import Memory, Signature, divide, groups_of, sign
from training.data.sources import FolderSource, Source
from training.progress import PlainProgress, SilentProgress


def photograph(path: Path, seed: int, side: int = 64, **settings: Any) -> Path:
    """A smooth picture, as photographs are: noise of 8×8 cells, enlarged."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC).save(path, **settings)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        photograph(tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number:02d}.png", number)
    return tmp_path / "images"


def opened(folder: Path, **settings: object) -> tuple[dict[Split, SplitImages], list[str]]:
    notes = Notes()
    config = ImagesConfig.model_validate({"source": str(folder), "splits": {"tune": 4}, **settings})
    return open_splits(config, None, 0, notes)[0], notes.notes


def homes(splits: dict[Split, SplitImages]) -> dict[str, set[str]]:
    """First two letters of each file's name, which say the photograph → splits it lies in."""
    found: dict[str, set[str]] = {}
    for name, split in splits.items():
        for item in split.items:
            found.setdefault(Path(item.name).name[:2], set()).add(name)
    return found


def test_without_copies_every_image_goes_where_it_always_went(folder: Path) -> None:
    splits, notes = opened(folder)
    groups = list(range(40))
    room = {"calibrate": 8, "fit": 20, "tune": 4, "unused": 0, "test": 8}
    assert divide(groups, room) == ["calibrate"] * 8 + ["fit"] * 20 + ["tune"] * 4 + ["test"] * 8
    assert {name: len(split) for name, split in splits.items()} == {"fit": 20, "calibrate": 8, "test": 8, "tune": 4}
    # taken down before copies were looked for: work folders of older jobs stay valid
    assert [Path(item.name).stem for item in splits["calibrate"].items] == FIRST_EIGHT
    assert not any("copies" in note for note in notes)


FIRST_EIGHT = ["14", "01", "04", "29", "16", "17", "08", "23"]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp.png"])
def test_copies_of_the_same_pixels_stay_together(folder: Path, suffix: str) -> None:
    for path in [*folder.rglob("*.png")]:
        for copy in range(int(path.stem) % 3):
            name = path.with_name(f"{path.stem} ({copy}){suffix}")
            with Image.open(path) as image:
                image.save(name, lossless=True) if suffix == ".webp" else image.save(name, compress_level=1)
    splits, notes = opened(folder)
    assert all(len(found) == 1 for found in homes(splits).values())
    assert sum(len(split) for split in splits.values()) == 79
    assert sum(split.copies for split in splits.values()) == 39
    assert sum(split.usable for split in splits.values()) == 40
    (said,) = [note for note in notes if "copies" in note]
    assert f"{splits['fit'].copies} of {len(splits['fit'])} in fit" in said


@pytest.mark.parametrize("seed", range(20))
def test_divide_never_tears_a_group_and_loses_no_image(seed: int) -> None:
    drawn = random.Random(seed)
    groups = [drawn.randrange(60) for _ in range(100)]
    splits = divide(groups, {"calibrate": 30, "fit": 40, "tune": 10, "unused": 0, "test": 20})
    assert len({group: split for group, split in zip(groups, splits, strict=True)}) == len(
        set(zip(groups, splits, strict=True))
    )
    counts = Counter(splits)
    assert sum(counts.values()) == 100 and counts["calibrate"] <= 30 and counts["test"] <= 20


def test_copies_in_a_torchvision_data_set_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    class Fake:
        classes = ("cat", "dog")

        def __init__(self, root: str, train: bool = True) -> None:
            self.targets = [0, 1] * 30

        def __len__(self) -> int:
            return 60

        def __getitem__(self, position: int) -> tuple[Image.Image, int]:
            return Image.new("L", (4, 4), position // 2 % 10), self.targets[position]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    splits, _ = open_splits(ImagesConfig(source="torchvision:CIFAR10"), None, 0, SilentProgress())
    shown = {name: {item.position // 2 % 10 for item in split.items} for name, split in splits.items()}
    assert sum(map(len, shown.values())) == 10 and sum(map(len, splits.values())) == 60


def test_too_few_photographs_for_the_splits(tmp_path: Path) -> None:
    for number in range(60):
        photograph(tmp_path / "cat" / f"{number:02d}.png", number % 2)
    with pytest.raises(DataError, match="they show 2 photographs, and copies stay in the same split"):
        opened(tmp_path)


def test_a_photograph_under_two_classes_is_named(folder: Path) -> None:
    shutil.copy(folder / "cat" / "00.png", folder / "dog" / "00 again.png")
    splits, notes = opened(folder)
    assert len(homes(splits)["00"]) == 1
    (said,) = [note for note in notes if "several classes" in note]
    assert "cat/00.png" in said and "dog/00 again.png" in said


def test_copies_of_test_images_are_not_learnt_from(folder: Path, tmp_path: Path) -> None:
    for number in (3, 4, 90):
        photograph(tmp_path / "test" / ("cat", "dog")[number % 2] / f"{number:02d}.png", number)
    splits, notes = opened(folder, test_source=str(tmp_path / "test"))
    assert len(splits["test"]) == 3
    assert sum(len(split) for split in splits.values()) == 38 + 3
    assert all(len(found) == 1 for found in homes(splits).values())
    assert any("2 of" in note and "are copies of images in" in note for note in notes)


def test_near_copies_are_an_option(folder: Path) -> None:
    for path in [*folder.rglob("*.png")][:12]:
        with Image.open(path) as image:
            image.save(path.with_name(f"{path.stem} saved.jpg"), quality=60)
            image.resize((40, 40)).save(path.with_name(f"{path.stem} small.png"))
            image.crop((1, 1, 63, 63)).save(path.with_name(f"{path.stem} cropped.png"))
    splits, _ = opened(folder)
    assert sum(split.copies for split in splits.values()) == 0
    splits, _ = opened(folder, near_copies=6)
    assert all(len(found) == 1 for found in homes(splits).values())
    assert sum(split.copies for split in splits.values()) == 36


def test_near_copies_are_found_through_others_but_not_across_colours() -> None:
    def bits(count: int) -> str:
        return f"{(1 << count) - 1:016x}"

    def cells(shift: int) -> str:
        return bytes([at * 3 + shift * (at % 3 == 0) for at in range(64)] * 3).hex()

    signatures = [
        ("a", bits(0), cells(0)),
        ("b", bits(3), cells(0)),
        ("c", bits(6), cells(0)),
        ("d", bits(0), cells(60)),
    ]
    assert groups_of(signatures, near=3) == [0, 0, 0, 3]
    assert groups_of(signatures, near=2) == [0, 1, 2, 3]
    assert groups_of([*signatures, signatures[2]], near=0) == [0, 1, 2, 3, 2]


@pytest.mark.parametrize("ground", ["white", "black"])
def test_other_objects_on_a_plain_ground_are_no_near_copies(tmp_path: Path, ground: str) -> None:
    """There almost every bit of a difference hash is alike; and plain images saved again still are copies."""
    drawn = random.Random(1)
    for number in range(60):
        image = Image.new("RGB", (64, 64), ground)
        left, top, size = drawn.randrange(6, 40), drawn.randrange(6, 40), drawn.randrange(8, 18)
        colour = tuple(drawn.randrange(40, 216) for _ in range(3))
        ImageDraw.Draw(image).ellipse((left, top, left + size, top + size), fill=colour)
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        image.resize((48, 48), Image.Resampling.LANCZOS).save(path.with_name(f"{number:02d} small.png"))
    splits, _ = opened(tmp_path, near_copies=12)
    assert all(len(found) == 1 for found in homes(splits).values())
    assert sum(split.copies for split in splits.values()) == 60


def test_an_older_releases_memory_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    source = FolderSource(folder)
    key = source.version(0)
    (tmp_path / "images.json").write_text(json.dumps({key: ["a", "0" * 16, [1, 2, 3]]}))
    (found,) = Memory(tmp_path / "images.json").signatures(source, [0], lambda count: None)
    assert found == sign(source, 0)


def digests(folder: Path, memory: Path) -> dict[str, str]:
    """Digest of each image alone, by its name."""
    splits, _ = open_splits(ImagesConfig(source=str(folder)), None, 0, Notes(), memory)
    return {
        Path(item.name).stem: each.digest(at, at + 1) for each in splits.values() for at, item in enumerate(each.items)
    }


def replaced(path: Path, seed: int) -> None:
    """Another picture of the same size in bytes."""
    before = path.stat()
    photograph(path, seed, compress_level=0)
    assert path.stat().st_size == before.st_size, "else the size tells"
    os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))


def test_an_image_that_changed_and_kept_its_size_is_another_one(tmp_path: Path) -> None:
    folder, memory = tmp_path / "images", tmp_path / "images.json"
    paths = [photograph(folder / ("a", "b")[at % 2] / f"{at:02d}.png", at, compress_level=0) for at in range(20)]
    before = digests(folder, memory)
    replaced(paths[3], 100)
    changed = digests(folder, memory)
    assert {name for name in before if before[name] != changed[name]} == {"03"}
    replaced(paths[3], 101)
    again = digests(folder, memory)
    assert again["03"] not in (before["03"], changed["03"]) and digests(folder, memory) == again
    replaced(paths[3], 3)
    assert digests(folder, memory) == before, "what was made of it before is right again"


def test_an_image_of_another_time_is_the_same(folder: Path, tmp_path: Path) -> None:
    before = digests(folder, tmp_path / "images.json")
    for path in folder.rglob("*.png"):
        os.utime(path, (0, 0))
    assert digests(folder, tmp_path / "images.json") == before


def test_an_image_that_can_be_read_now_is_another_one(folder: Path, tmp_path: Path) -> None:
    path, memory = folder / "cat" / "04.png", tmp_path / "images.json"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    before = digests(folder, memory)
    path.write_bytes(whole)
    assert {name for name, found in digests(folder, memory).items() if before[name] != found} == {"04"}


def test_unreadable_images_are_nobodys_copies(folder: Path) -> None:
    for name in ("00", "02", "04"):
        (folder / "cat" / f"{name}.png").write_bytes(b"no image")
    splits, _ = opened(folder)
    assert sum(split.copies for split in splits.values()) == 0
    assert sorted(Path(name).stem for split in splits.values() for name in split.unreadable) == ["00", "02", "04"]
    assert sum(split.usable for split in splits.values()) == 37


def test_names_may_be_anything(folder: Path, tmp_path: Path) -> None:
    for at, name in enumerate((b"caf\xe9.png", b"[red]\x1b[2K\n.png", b":smile:.png")):
        photograph(folder / "cat" / "new.png", 100 + at).rename(folder / "cat" / os.fsdecode(name))
    shutil.copy(folder / "cat" / os.fsdecode(b"caf\xe9.png"), folder / "dog")
    config = ImagesConfig(source=str(folder))
    stream = io.StringIO()
    for _ in range(2):  # at first decoded, then remembered
        splits, _ = open_splits(config, None, 0, PlainProgress(stream), tmp_path / "images.json")
        assert sum(split.copies for split in splits.values()) == 1
    assert "caf\\xe9.png" in stream.getvalue()
    stream.getvalue().encode()  # no bytes that are no UTF-8


def test_what_was_decoded_is_remembered_until_it_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(source: Source, at: int) -> Signature:
        looked.append(at)
        return sign(source, at)

    monkeypatch.setattr("training.data.copies.sign", look)
    source = FolderSource(folder)

    def signatures() -> list[Signature]:
        looked.clear()
        memory = Memory(tmp_path / "images.json")
        found = memory.signatures(source, range(len(source)), lambda count: None)
        memory.store()
        return found

    first = signatures()
    assert len(looked) == 40
    assert signatures() == first and looked == []
    photograph(source.paths[7], 99)
    os.utime(source.paths[7], ns=(1, 1))
    assert signatures()[7] != first[7] and looked == [7]
    (tmp_path / "images.json").write_text("[1, 2")
    assert len(signatures()) == 40 and len(looked) == 40

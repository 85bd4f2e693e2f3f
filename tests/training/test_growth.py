"""Images that are added make new shards and nothing else, and no image ever changes its split."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from notes import Notes
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from test_copies import photograph
from tiny_job import configure, write_source
from torch import Tensor

from detector.errors import DataError
from training.config import ImagesConfig, Split
from training.data import SplitImages, open_splits
from training.data.growth import Ledger, home_of
from training.job import LEDGER, Job, open_job
from training.progress import SilentProgress
from training.shards import digest_of
from training.stages import attack, attribute

GROWS = {"grows": True, "splits": {"fit": 0.4, "calibrate": 0.35, "test": 0.25, "tune": 0.0}}
CHEAP = [
    {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "16/255"}},
    {"name": "FGSM", "label": "far", "family": "far", "parameters": {"eps": "32/255"}, "train": False},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(60):
        photograph(tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number:02d}.png", number)
    return tmp_path / "images"


def opened(folder: Path, ledger: Path, **settings: object) -> dict[Split, SplitImages]:
    """As a job opens its images, with shards of 8."""
    config = ImagesConfig.model_validate({"source": str(folder), **GROWS, **settings})
    known = Ledger.read(ledger)
    splits, _ = open_splits(config, None, 0, Notes(), ledger=known, shard_size=8)
    known.store()
    return splits


def homes(splits: dict[Split, SplitImages]) -> dict[str, str]:
    return {Path(item.name).stem: split for split, each in splits.items() for item in each.items}


def shards(splits: dict[Split, SplitImages]) -> dict[tuple[str, int], list[str]]:
    return {
        (split, number): [Path(item.name).stem for item in each.items[start:stop]]
        for split, each in splits.items()
        for number, start, stop in each.shards(8)
    }


def test_an_image_keeps_its_split_and_its_shard_whatever_is_added(images: Path, tmp_path: Path) -> None:
    before = opened(images, tmp_path / LEDGER)
    assert all(len(part) for name, part in before.items() if name != "tune")
    for number in range(60, 90):  # some sort before the others
        photograph(images / "cat" / f"{'0' * (number % 2)}{number}.png", number)
    after = opened(images, tmp_path / LEDGER)
    assert homes(before).items() < homes(after).items()
    assert shards(before).items() < shards(after).items()
    kept = {item.index: item for split in before.values() for item in split.items}
    now = {item.index: item for split in after.values() for item in split.items}
    assert all((now[at].fingerprint, now[at].truth) == (item.fingerprint, item.truth) for at, item in kept.items())


def test_other_shares_seeds_and_a_lost_ledger_move_no_image(images: Path, tmp_path: Path) -> None:
    before = homes(opened(images, tmp_path / LEDGER))
    other = {"splits": {"fit": 0.1, "calibrate": 0.1, "test": 0.1, "tune": 0.7}}
    assert homes(opened(images, tmp_path / LEDGER, **other)) == before
    told = json.loads((tmp_path / LEDGER).read_text())
    (tmp_path / LEDGER).write_text(json.dumps({"format": told["format"], "homes": told["homes"]}))
    assert homes(opened(images, tmp_path / LEDGER, **other)) == before
    (tmp_path / LEDGER).unlink()
    assert homes(opened(images, tmp_path / LEDGER)) == before
    config = ImagesConfig.model_validate({"source": str(images), **GROWS})
    assert homes(open_splits(config, None, 9, SilentProgress())[0]) == before


@pytest.mark.parametrize(
    "told",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 2, "homes": {}}',
        '{"format": 1, "homes": {"a": "fir"}}',
        '{"format": 1, "homes": {}, "shards": {"fit": {"x": []}}}',
        '{"format": 1, "homes": {}, "shards": {"fit": {"0": 5}}}',
    ],
)
def test_a_damaged_ledger_is_an_error_and_stays_as_it_is(images: Path, tmp_path: Path, told: str) -> None:
    (tmp_path / LEDGER).write_text(told)
    with pytest.raises(DataError, match=r"ledger\.json: the ledger, .* cannot be read .*: put a copy of it back"):
        opened(images, tmp_path / LEDGER)
    assert (tmp_path / LEDGER).read_text() == told


@pytest.mark.parametrize("name", ["00 copy", "99 copy"])  # sorts before, or after, the image it copies
def test_a_copy_joins_the_split_of_what_it_copies(images: Path, tmp_path: Path, name: str) -> None:
    before = homes(opened(images, tmp_path / LEDGER, near_copies=6))
    for stem in ("10", "21", "32", "43"):
        folder = images / ("cat", "dog")[int(stem) % 2]
        with Image.open(folder / f"{stem}.png") as image:
            image.save(folder / f"{name} of {stem}.jpg", quality=70)
    after = homes(opened(images, tmp_path / LEDGER, near_copies=6))
    assert before.items() <= after.items()
    for stem in ("10", "21", "32", "43"):
        assert after[f"{name} of {stem}"] == before[stem]


def test_a_copy_joins_an_image_that_is_gone(images: Path, tmp_path: Path) -> None:
    before = homes(opened(images, tmp_path / LEDGER))
    shutil.move(images / "cat" / "10.png", images / "cat" / "renamed.png")
    after = homes(opened(images, tmp_path / LEDGER, splits={"fit": 0.0, "calibrate": 0.5, "test": 0.5}))
    assert after["renamed"] == before["10"]


def test_an_image_that_moved_to_another_source_keeps_its_split(images: Path, tmp_path: Path) -> None:
    before = homes(opened(images, tmp_path / LEDGER))
    moved = {split: next(name for name, home in before.items() if home == split) for split in ("test", "calibrate")}
    for name in moved.values():
        path = next(images.rglob(f"{name}.png"))
        (tmp_path / "more" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, tmp_path / "more" / path.parent.name)
    photograph(tmp_path / "more" / "cat" / "new.png", 77)
    after = homes(opened(images, tmp_path / LEDGER, fit_sources=[str(tmp_path / "more")]))
    assert after == before | {"new": "fit"}


def test_only_the_shard_that_lost_an_image_is_dealt_again(images: Path, tmp_path: Path) -> None:
    before = shards(opened(images, tmp_path / LEDGER))
    (place, lost) = next((place, names[2]) for place, names in before.items() if place[0] == "fit")
    next(images.rglob(f"{lost}.png")).unlink()
    after = shards(opened(images, tmp_path / LEDGER))
    assert after == before | {place: [name for name in before[place] if name != lost]}


def test_hashes_fill_the_shares() -> None:
    found = [home_of(f"image {number}", {"test": 0.2, "calibrate": 0.1, "fit": 0.5}) for number in range(5000)]
    counts = {name: found.count(name) / 5000 for name in ("test", "calibrate", "fit", "unused")}
    assert counts == pytest.approx({"test": 0.2, "calibrate": 0.1, "fit": 0.5, "unused": 0.2}, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"splits": {"calibrate": 24}}, "splits.calibrate: 24 is a count"),
        ({"splits": {"fit": 0.5, "test": 40}}, "splits.test: 40 is a count"),
        ({"splits": {"fit": 0.9, "calibrate": 0.3}}, "add up to 1"),
        ({"splits": {"tune": -0.1}}, "add up to 1"),
        ({"limit": 10}, "limit"),
        ({"test_source": "x", "splits": {"test": 0.2}}, "splits.test: all of test_source"),
        ({"calibrate_source": "x", "splits": {"calibrate": 0.2}}, "splits.calibrate: all of calibrate_source"),
    ],
)
def test_what_does_not_grow_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ImagesConfig.model_validate({"source": "x", "grows": True, **settings})


@pytest.mark.parametrize("grows", [False, True])
def test_more_sources_fill_their_splits_and_leak_nothing(images: Path, tmp_path: Path, grows: bool) -> None:
    for number in range(100, 130):
        photograph(tmp_path / "traffic" / ("cat", "dog")[number % 2] / f"{number}.png", number)
        photograph(tmp_path / "more" / ("cat", "dog")[number % 2] / f"{number + 100}.png", number + 100)
    shutil.copy(images / "cat" / "10.png", tmp_path / "traffic" / "cat")
    settings = {"calibrate_source": str(tmp_path / "traffic"), "fit_sources": [str(tmp_path / "more")]}
    notes = Notes()
    config = ImagesConfig.model_validate({"source": str(images), "grows": grows, **settings})
    splits, _ = open_splits(config, None, 0, notes)
    tested = next(Path(item.name) for item in splits["test"].items)
    shutil.copy(tested, tmp_path / "more" / tested.parent.name / "leaks.png")
    splits, _ = open_splits(config, None, 0, notes)
    assert {Path(item.name).parents[1].name for item in splits["calibrate"].items} == {"traffic"}
    assert len(splits["calibrate"]) == 31
    found = homes(splits)
    assert "leaks" not in found and [found[str(number)] for number in range(200, 230)] == ["fit"] * 30
    assert found["10"] == "calibrate" and sum(len(split) for split in splits.values()) == 59 + 31 + 30
    assert any("leaks.png: left out" in note for note in notes.notes)
    assert splits["fit"].read(0, len(splits["fit"]), prepare).skipped == ()


def prepare(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.resize(pixels, (4, 4, 3)).copy()).permute(2, 0, 1) / 255


def write_images(folder: Path, numbers: range) -> None:
    """Tiny pictures, each of its own."""
    names = ("horizontal", "vertical", "diagonal", "checker")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / names[number % 4] / f"{number:04d}.png")


def digests(work: Path) -> dict[str, tuple[str | None, int]]:
    return {
        path.relative_to(work).as_posix(): (digest_of(path), path.stat().st_mtime_ns)
        for path in work.glob("att*/*/*/*.safetensors")
    }


def test_one_photograph_added_to_2000_makes_its_own_shards_alone(source: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", range(2000))
    settings = {"images": {"source": str(tmp_path / "images"), **GROWS}, "attacks": CHEAP, "witness": None}
    config = configure(source, tmp_path, **settings, allow_inaccurate=True, shard_size=256, batch_size=256)

    def make() -> Job:
        job = open_job(config, SilentProgress())
        attack.run(job)
        attribute.run(job)
        return job

    make()
    before = digests(tmp_path / "work")
    write_images(tmp_path / "images", range(2000, 2001))
    job = make()
    after = digests(tmp_path / "work")
    assert before.items() <= after.items()
    (home,) = [name for name, split in job.splits.items() if any("2000.png" in item.name for item in split.items)]
    newest = [job.plan(stage, home, label)[-1] for stage in ("attack", "attribute") for label in config.labels(home)]
    assert [plan.rows for plan in newest] == [1] * len(newest)
    assert after.keys() - before.keys() == {plan.path.relative_to(tmp_path / "work").as_posix() for plan in newest}


def make_shards(source: Path, place: Path, deadly: int = 0) -> None:
    """Attack and attribute; in a process of its own: die by SIGKILL where the file of this number gets its name."""
    replace, named = os.replace, itertools.count(1)

    def dying(temporary: str | Path, path: str | Path) -> None:
        if next(named) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(temporary, path)

    if deadly:
        os.replace = dying  # type: ignore[assignment]
    job = open_job(configure(source, place, images={"source": str(place / "images"), **GROWS}), SilentProgress())
    attack.run(job)
    attribute.run(job)


def test_killed_at_any_file_a_job_that_grew_ends_the_same(source: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(source / "images", whole / "images")
    make_shards(source, whole)
    shutil.copytree(whole, killed)
    for place in (whole, killed):
        shutil.copy(source / "images" / "checker" / "003.png", place / "images" / "checker" / "copy.png")
        write_images(place / "images", range(7000, 7003))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.pipeline"])
    for deadly in (1, 2, 3, 5, 8, 13):  # what looked at images remembers, the ledger, then notes, shards and rates
        process = processes.Process(target=make_shards, args=(source, killed, deadly))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, deadly
    for place in (whole, killed):
        make_shards(source, place)
        told = json.loads((place / "work" / LEDGER).read_text())
        assert sum(len(ids) for split in told["shards"].values() for ids in split.values()) == 104
    ended = [{name: digest for name, (digest, _) in digests(place / "work").items()} for place in (whole, killed)]
    assert ended[0] == ended[1] and None not in ended[0].values()
    assert all((killed / "work" / name).read_bytes() == (whole / "work" / name).read_bytes() for name in ended[0])

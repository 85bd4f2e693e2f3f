"""A folder of attacked images is an attack like any other: no photograph in two splits, what fools nobody left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from notes import Notes
from PIL import Image
from pydantic import TypeAdapter
from tiny_job import configure, write_source

from detector.errors import ConfigError, DataError
from training import pipeline
from training.config import AttackSpec, Split, TrainingConfig
from training.data.collected import source_name
from training.evaluation.result import EvaluationResult
from training.job import Job, open_job
from training.progress import SilentProgress
from training.runners import ShardPlan
from training.runners.worker import Worker
from training.shards import read_shard
from training.stages import attack

ATTACK = """
[[attacks]]
name = "files:{folder}"
label = "crafted"
family = "crafted"
parameters = {{ {originals} }}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The tiny job, whose attacked images are what somebody collected."""
    source = write_source(tmp_path_factory.mktemp("source"))
    job = open_job(configure(source, tmp_path_factory.mktemp("place")), SilentProgress())
    attack.run(job)
    return job


@pytest.fixture
def source(made: Job, tmp_path: Path) -> Path:
    """Images and configuration of the tiny job, and its PGD images as files, by their originals' names."""
    place = Path(made.config.images.source).parent
    for name in ("net.safetensors", "witness.safetensors"):
        shutil.copy(place / name, tmp_path / name)
    shutil.copytree(place / "images", tmp_path / "images")
    text = (place / "config.toml").read_text().replace(str(place), str(tmp_path))
    (tmp_path / "config.toml").write_text(text)
    items = {item.index: item for images in made.splits.values() for item in images.items}
    splits: tuple[Split, ...] = ("fit", "test", "tune")
    for split in splits:
        for plan in made.plan("attack", split, "pgd"):
            shard = read_shard(plan.path)
            for index, image in zip(shard["index"].tolist(), shard["images"], strict=True):
                path = tmp_path / "crafted" / Path(items[index].name).relative_to(place / "images")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
    return tmp_path


def with_files(source: Path, place: Path, originals: bool = True, more: str = "") -> TrainingConfig:
    """The configuration with the collected images as one more attack."""
    text = (source / "config.toml").read_text()
    told = f'originals = "{source / "images"}"' if originals else ""
    (source / "config.toml").write_text(text + ATTACK.format(folder=source / "crafted", originals=told) + more)
    return configure(source, place)


def rows(job: Job, split: Split, column: str) -> torch.Tensor:
    return torch.cat([read_shard(plan.path)[column] for plan in job.plan("attack", split, "crafted")])


def test_images_go_where_their_originals_are_and_succeed_as_the_attack_did(made: Job, source: Path) -> None:
    job = open_job(with_files(source, source), SilentProgress())
    attack.run(job)
    seen = 0
    for split in ("fit", "test", "tune"):
        there = {item.index for item in job.splits[split].items}
        index = rows(job, split, "index").tolist()
        assert set(index) <= there and len(set(index)) == len(index)
        seen += len(index)
        before = {
            each: torch.cat([read_shard(plan.path)[each] for plan in made.plan("attack", split, "pgd")])
            for each in ("index", "origin", "prediction", "linf")
        }
        order, now = before["index"].argsort(), rows(job, split, "index").argsort()
        for column in ("origin", "prediction", "linf"):
            assert torch.equal(before[column][order], rows(job, split, column)[now])
    assert seen == sum(1 for _ in (source / "crafted").rglob("*.png"))


def test_without_originals_the_class_folder_is_the_truth(source: Path) -> None:
    for path in (source / "crafted").rglob("*.png"):  # at 16 pixels and 16/255 few images look like their originals
        image = np.array(Image.open(source / "images" / path.relative_to(source / "crafted")))
        Image.fromarray(image ^ 1).save(path)
    job = open_job(with_files(source, source, originals=False), SilentProgress())
    attack.run(job)
    for split in ("fit", "test"):
        there = {item.index for item in job.splits[split].items}
        index = rows(job, split, "index")
        # most are known again by what they look like; none of another split's
        assert len(there & set(index.tolist())) > 0.9 * len(index)
        others = {item.index for name, images in job.splits.items() if name != split for item in images.items}
        assert not others & set(index.tolist())
        assert torch.equal(rows(job, split, "origin"), rows(job, split, "truth"))
        assert rows(job, split, "linf").isnan().all()


def test_a_whole_job_learns_from_files_and_measures_them(source: Path) -> None:
    foreign = tiny.images(12, seed=99)  # of photographs that the job does not have
    for number, (image, label) in enumerate(zip(foreign.images, foreign.labels.tolist(), strict=True)):
        pixels = np.ascontiguousarray((1 - image).mul(255).byte().permute(1, 2, 0).numpy())
        Image.fromarray(pixels).save(source / "crafted" / tiny.CLASSES[label] / f"foreign{number}.png")
    config = with_files(source, source)
    pipeline.run(config, SilentProgress())
    found = {each.label: each for each in EvaluationResult.read(config.work / "evaluate").attacks}["crafted"]
    assert found.attempts > 0 and found.success_rate.value > 0
    assert found.detectors["heatward"].auroc.count > 0
    manifest = json.loads((config.work / "evaluate" / "evaluation.json").read_text())
    assert manifest["attacks"][-1]["name"].startswith("files:")
    assert all(plan.finished for plan in open_job(config, SilentProgress()).plan("attribute", "fit", "crafted"))


@pytest.mark.parametrize("folder", ["crafted", "images"])
def test_an_image_that_changed_and_kept_its_size_makes_its_shard_stale(source: Path, folder: str) -> None:
    """The attacked one, or its original."""
    named = next((source / "crafted").rglob("*.png")).relative_to(source / "crafted")
    pixels = np.array(Image.open(source / folder / named))
    Image.fromarray(pixels).save(source / folder / named, compress_level=0)
    config = with_files(source, source)
    before = open_job(config, SilentProgress())
    size = (source / folder / named).stat().st_size
    Image.fromarray(pixels ^ 1).save(source / folder / named, compress_level=0)
    assert (source / folder / named).stat().st_size == size, "else the size tells"
    after = open_job(config, SilentProgress())
    stale = [
        split
        for split in ("fit", "test", "tune")
        for old, new in zip(*(job.plan("attack", split, "crafted") for job in (before, after)), strict=True)
        if old.digest != new.digest
    ]
    assert len(stale) == 1


def test_a_split_without_an_image_is_no_trouble(source: Path) -> None:
    job = open_job(with_files(source, source), SilentProgress())
    kept = next(item.name for item in job.collected["crafted"].splits["fit"].items)
    for path in (source / "crafted").rglob("*.png"):
        if str(path) != kept:
            path.unlink()
    pipeline.run(configure(source, source), SilentProgress())


def test_what_is_left_out_is_counted(source: Path) -> None:
    job = open_job(configure(source, source / "before"), SilentProgress())
    calibrating = Path(job.splits["calibrate"].items[0].name)
    shutil.copy(calibrating, source / "crafted" / calibrating.relative_to(source / "images"))
    (source / "crafted" / "checker" / "torn.png").write_bytes(b"\x89PNG")
    image = np.full((16, 16, 3), 200, np.uint8)
    image[4:9] = 20
    Image.fromarray(image).save(source / "crafted" / "checker" / "nobody's.jpg")
    notes = Notes()
    open_job(with_files(source, source), notes)
    (said,) = [note for note in notes.notes if note.startswith("attack 'crafted': ") and "unreadable" in note]
    assert "1 unreadable ones left out, 1 left out whose photographs serve another purpose" in said
    assert "2 without an original" in said


def test_another_kind_of_file_is_said(source: Path) -> None:
    for path in (source / "crafted").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    notes = Notes()
    open_job(with_files(source, source), notes)
    assert any("are compressed with loss, the photographs lossless" in note for note in notes.notes)


def test_unseen_files_are_for_the_test_split_alone(source: Path) -> None:
    config = with_files(source, source, more="train = false\n")
    job = open_job(config, SilentProgress())
    there = {item.index for item in job.splits["test"].items}
    collected = job.collected["crafted"].splits
    assert {item.index for item in collected["test"].items} == there and not len(collected["fit"])


def test_a_plan_is_plain_data_and_another_worker_makes_the_same(source: Path) -> None:
    job = open_job(with_files(source, source), SilentProgress())
    attack.run(job)
    plans = job.plan("attack", "fit", "crafted")
    kind = TypeAdapter(list[ShardPlan])
    assert kind.validate_json(kind.dump_json(plans)) == plans
    before = [plan.path.read_bytes() for plan in plans]
    worker = Worker.open(job.config.model_dump(mode="json"), job.classifier.classes)
    for plan in reversed(plans):
        worker.make(plan)
    assert [plan.path.read_bytes() for plan in plans] == before


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        (lambda source: shutil.rmtree(source / "crafted"), DataError, "attack 'crafted': image folder"),
        (lambda source: [path.unlink() for path in (source / "crafted").rglob("*.png")], DataError, "holds no images"),
        (
            lambda source: (source / "crafted" / "checker").rename(source / "crafted" / "chequer"),
            DataError,
            "class folder 'chequer' is not a class of the classifier; did you mean 'checker'",
        ),
        (
            lambda source: [
                path.rename(path.with_stem(f"new{path.stem}")) for path in (source / "crafted").rglob("*.png")
            ],
            DataError,
            "no image of",
        ),
    ],
)
def test_folders_that_cannot_be_used(source: Path, change: object, kind: type[Exception], expected: str) -> None:
    config = with_files(source, source)
    change(source)  # type: ignore[operator]
    with pytest.raises(kind) as caught:
        open_job(config, SilentProgress())
    assert expected in str(caught.value) and "attack 'crafted': " in str(caught.value)


def test_words_are_checked() -> None:
    def spec(name: str = "files:a", **parameters: object) -> AttackSpec:
        return AttackSpec(name=name, label="x", family="b", parameters=parameters)

    assert (spec().folder, spec(originals="b").originals, spec("PGD").folder) == ("a", "b", None)
    assert source_name(spec()) != source_name(spec(), originals=True)
    for bad, expected in (
        ({"orignals": "b"}, "did you mean 'originals'"),
        ({"originals": 3}, 'expected a folder, such as parameters = { originals = "photographs" }, got 3'),
        ({"name": "files:"}, "expected files:FOLDER"),
    ):
        with pytest.raises(ValueError, match=expected):
            spec(**bad)


def test_nobody_knows_what_unlabelled_images_showed(source: Path) -> None:
    text = (source / "config.toml").read_text().replace("[images]\n", "[images]\nlabelled = false\n")
    (source / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"images.labelled is false, and no originals are given"):
        open_job(with_files(source, source, originals=False), SilentProgress())


def test_two_attacks_on_a_photograph_of_nobodys_go_to_one_split(source: Path) -> None:
    foreign = tiny.images(24, seed=99)
    for number, (image, label) in enumerate(zip(foreign.images, foreign.labels.tolist(), strict=True)):
        pixels = np.ascontiguousarray(image.mul(255).byte().permute(1, 2, 0).numpy())
        for place, change in (("foreign", 0), ("one", 9), ("other", 200)):
            if place == "one" and number % 3 == 0:  # the two folders do not hold the same ones
                continue
            path = source / place / tiny.CLASSES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels ^ np.uint8(change)).save(path)
    text = (source / "config.toml").read_text()
    told = f'originals = "{source / "foreign"}"'
    for place in ("one", "other"):
        text += ATTACK.format(folder=source / place, originals=told).replace('"crafted"', f'"{place}"')
    (source / "config.toml").write_text(text)
    job = open_job(configure(source, source), SilentProgress())
    homes = {
        place: {item.index: split for split, images in job.collected[place].splits.items() for item in images.items}
        for place in ("one", "other")
    }
    assert len(homes["one"]) == 16 and len(homes["other"]) == 24 and len({*homes["other"].values()}) > 1
    assert all(homes["other"][index] == split for index, split in homes["one"].items())


def test_of_two_originals_of_a_name_the_one_of_that_suffix_is_it(source: Path, tmp_path: Path) -> None:
    crafted = sorted((source / "crafted").rglob("*.png"))[0]
    original = source / "images" / crafted.relative_to(source / "crafted")
    shutil.copytree(source / "images", source / "photographs")
    other = source / "photographs" / crafted.relative_to(source / "crafted").with_suffix(".webp")
    Image.fromarray(255 - np.asarray(Image.open(original))).save(other, lossless=True)
    (source / "config.toml").write_text(
        (source / "config.toml").read_text()
        + ATTACK.format(folder=source / "crafted", originals=f'originals = "{source / "photographs"}"')
    )
    job = open_job(configure(source, tmp_path / "place"), SilentProgress())
    names = {Path(each.name).suffix for each in job.collected["crafted"].originals.values()}
    assert names == {".png"}
    crafted.rename(crafted.with_suffix(".bmp"))
    Image.open(crafted.with_suffix(".bmp")).save(crafted.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"may have been made from .* and .*rename"):
        open_job(configure(source, tmp_path / "place"), SilentProgress())


def test_the_same_pixels_count_once(source: Path, tmp_path: Path) -> None:
    first = sorted((source / "crafted").rglob("*.png"))[0]
    for name in ("a-copy.png", "another.png"):
        shutil.copy(first, first.with_name(name))
    Image.open(first).save(first.with_name("third.webp"), lossless=True)
    notes = Notes()
    job = open_job(with_files(source, tmp_path / "place"), notes)
    names = [Path(item.name).name for images in job.collected["crafted"].splits.values() for item in images.items]
    assert first.name in names and not {"a-copy.png", "another.png", "third.webp"} & set(names)
    assert any("3 copies of others left out" in each for each in notes.notes)

"""What would make a detector worthless ends a job before its cost is spent, with what to look at."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from notes import Notes
from safetensors.torch import save_file
from tiny_job import configure, write_source

from detector.errors import CalibrationError, ConfigError, DataError
from training import checks, cli, pipeline
from training.checks import chance_of, near_chance
from training.config import STAGES, TrainingConfig
from training.job import open_job
from training.progress import SilentProgress
from training.stages import attack


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def shards(place: Path) -> set[str]:
    """Labels of which any shard was made."""
    return {path.parent.name for path in (place / "work").rglob("0*.safetensors")}


def train(config: TrainingConfig) -> list[str]:
    notes = Notes()
    pipeline.run(config, notes)
    return notes.notes


WRONG_ORDER = ["vertical", "horizontal", "checker", "diagonal"]


def test_a_wrong_order_of_classes_ends_before_the_first_attack(source: Path, tmp_path: Path) -> None:
    config = configure(source, tmp_path, classifier={"classes": WRONG_ORDER}, witness=None)
    with pytest.raises(DataError, match=r"right on \d+ of 100 images.*by chance.*order of the logits") as caught:
        train(config)
    said = str(caught.value)
    assert "'vertical' are called 'horizontal'" in said and "--allow-inaccurate" in said and "preprocessing" in said
    assert shards(tmp_path) == {"clean"}
    assert not config.out.exists()


def test_a_bundle_of_a_failed_check_is_not_written(source: Path, tmp_path: Path) -> None:
    """Not even where every shard and network is there, from when it was allowed."""
    splits = {"calibrate": 24, "test": 20, "tune": 0}
    settings = {"classifier": {"classes": WRONG_ORDER}, "witness": None, "images": {"splits": splits}}
    notes = train(configure(source, tmp_path, **settings, allow_inaccurate=True))
    assert any("by chance" in note for note in notes)
    bundle = tmp_path / "detector.heatward"
    bundle.unlink()
    for stages in (STAGES, ("bundle",)):
        with pytest.raises(DataError, match="allow-inaccurate"):
            for stage in stages:
                pipeline.run_stage(open_job(configure(source, tmp_path, **settings), SilentProgress()), stage)
    assert not bundle.exists()


def test_the_accuracy_of_a_good_classifier_is_said(source: Path, tmp_path: Path) -> None:
    notes = Notes()
    attack.run(open_job(configure(source, tmp_path), notes))
    (said,) = [note for note in notes.notes if note.startswith("classifier:")]
    right = int(said.split("right on ")[1].split()[0])
    assert right >= 60 and "of 100 images" in said and "by chance it would be on 25" in said


def test_images_without_labels_have_no_accuracy(source: Path, tmp_path: Path) -> None:
    notes = Notes()
    attack.run(open_job(configure(source, tmp_path, images={"labelled": False}), notes))
    assert any("no labels" in note for note in notes.notes)


OWN = """
seen = []

def signs(classifier, images, labels, *, passes=1, fails=False):
    for _ in range(passes):
        images.grad = None
        loss = classifier(images.requires_grad_()).logsumexp(1).sum()
    seen.append(len(images))
    if fails:
        raise IndexError("class 10")
    return (images + 0.1 * images.detach().sign()).clamp(0, 1)

def stubborn(classifier, images, labels):
    for _ in range(1000):
        try:
            classifier(images)
        except BaseException:
            raise ValueError("no answer")
    seen.append(len(images))
    return images
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images an attack of our own got, each time that it came to an end."""
    (tmp_path / "tried_attacks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("tried_attacks").seen
    sys.modules.pop("tried_attacks")


def own(name: str = "signs", **parameters: object) -> dict[str, object]:
    return {"name": f"tried_attacks:{name}", "label": name, "family": "own", "parameters": parameters}


FGSM = {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "32/255"}}


def test_an_attack_that_fails_ends_the_job_before_the_first_shard(
    source: Path, tmp_path: Path, seen: list[int]
) -> None:
    job = open_job(configure(source, tmp_path, attacks=[FGSM, own(fails=True)]), SilentProgress())
    with pytest.raises(ConfigError, match=r"attack 'signs': tried_attacks:signs failed with .*IndexError: class 10"):
        attack.run(job)
    assert seen == [2] and not shards(tmp_path)


@pytest.mark.parametrize("name", ["signs", "stubborn"])
def test_a_long_attack_is_tried_in_part_only(source: Path, tmp_path: Path, seen: list[int], name: str) -> None:
    given = own(name, **({"passes": 1000, "fails": True} if name == "signs" else {}))
    job = open_job(configure(source, tmp_path, attacks=[FGSM, given]), SilentProgress())
    plans = [plan for _, _, some in job.plans("attack") for plan in some]
    checks.try_attacks(job, plans)
    assert not seen
    checks.try_attacks(job, plans)  # nothing of the trial is left at the classifier
    assert not job.classifier.module._forward_pre_hooks


def test_an_attack_that_ran_before_is_not_tried(source: Path, tmp_path: Path, seen: list[int]) -> None:
    config = configure(source, tmp_path, attacks=[FGSM, own()])
    attack.run(open_job(config, SilentProgress()))
    made = len(seen)
    next((tmp_path / "work" / "attack" / "fit" / "signs").glob("*.safetensors")).unlink()
    attack.run(open_job(config, SilentProgress()))
    assert seen[0] == 2 and len(seen) > made and 2 not in seen[made:]


def test_a_net_that_nothing_fools_ends_after_the_attacks(source: Path, tmp_path: Path) -> None:
    attacks = [
        {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "0.1/255"}},
        {"name": "PGD", "label": "pgd", "family": "iterative", "parameters": {"eps": "0.1/255", "steps": 1}},
    ]
    with pytest.raises(DataError, match=r"fgsm \d of 40, pgd \d of 40.*eps is a share.*weights") as caught:
        train(configure(source, tmp_path, attacks=attacks))
    assert "more images" not in str(caught.value)
    assert not (tmp_path / "work" / "attribute").exists()


def test_a_family_that_never_works_is_said(source: Path, tmp_path: Path) -> None:
    weak = {"name": "PGD", "label": "weak", "family": "weak", "parameters": {"eps": "0.01/255", "steps": 1}}
    strong = {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "32/255"}}
    notes = Notes()
    attack.run(open_job(configure(source, tmp_path, attacks=[weak, strong]), notes))
    assert any("family weak" in note and "weak 0 of 40" in note for note in notes.notes)


def no_image(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"no image")


def one_photograph(paths: list[Path]) -> None:
    for path in paths[1:]:
        shutil.copy(paths[0], path)


@pytest.mark.parametrize(("spoil", "left"), [(no_image, 14), (one_photograph, 15)])
def test_calibration_images_count_if_they_differ_and_can_be_read(
    source: Path, tmp_path: Path, spoil: Callable[[list[Path]], None], left: int
) -> None:
    shutil.copytree(source / "images", tmp_path / "images")
    images = {"source": str(tmp_path / "images"), "skip_unreadable": True}
    job = open_job(configure(source, tmp_path, images=images), SilentProgress())
    spoil([Path(item.name) for item in job.splits["calibrate"].items[:10]])
    with pytest.raises(CalibrationError, match=rf"calibrate: {left} different .* at least 19 .* 99 to flag at 1 %"):
        train(configure(source, tmp_path, images=images))
    assert shards(tmp_path) == set()


def test_unreadable_images_end_the_job_before_it_begins(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "images", tmp_path / "images")
    images = {"source": str(tmp_path / "images")}
    job = open_job(configure(source, tmp_path, images=images), SilentProgress())
    bad = [Path(job.splits[split].items[-1].name) for split in ("test", "tune")]
    no_image(bad)
    with pytest.raises(DataError, match=r"2 images cannot be read, the first: .*cannot be read.*skip_unreadable"):
        train(configure(source, tmp_path, images=images))
    assert shards(tmp_path) == set()


def test_what_few_images_can_promise_is_said_at_once(source: Path, tmp_path: Path) -> None:
    notes = Notes()
    checks.check_images(open_job(configure(source, tmp_path), notes))
    said = " / ".join(notes.notes)
    assert "with 24 different images that can be read nothing can be flagged at less than 4.0%" in said
    assert "flagging at 1 % needs 99" in said
    assert "images.splits.test: 20 different images" in said and "images.splits.fit" not in said


@pytest.mark.parametrize(
    ("calibrate", "said"),
    [
        ({"tail": True}, "calibrate.tail: an estimate needs at least 200 calibration images .* has 24"),
        ({"by": "prediction"}, "calibrate.rate: 24 calibration images .* do not reach 0.01"),
    ],
)
def test_a_calibration_that_so_few_images_cannot_give_ends_the_job_before_it_begins(
    source: Path, tmp_path: Path, calibrate: dict[str, object], said: str
) -> None:
    with pytest.raises(CalibrationError, match=said):
        train(configure(source, tmp_path, calibrate=calibrate))
    assert shards(tmp_path) == set()


def test_classes_that_will_share_a_group_are_said_at_once(source: Path, tmp_path: Path) -> None:
    notes = Notes()
    checks.check_images(open_job(configure(source, tmp_path, calibrate={"by": "prediction", "rate": 0.05}), notes))
    assert any("24 images are about 6 for each of 4 predicted classes" in note for note in notes.notes)


def test_classes_without_images_are_said(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "images", tmp_path / "images")
    shutil.rmtree(tmp_path / "images" / "checker")
    notes = Notes()
    images = {"source": str(tmp_path / "images")}
    checks.check_images(open_job(configure(source, tmp_path, images=images), notes))
    assert any("1 of 4 classes have no image: checker" in note for note in notes.notes)


def test_evaluate_says_what_it_cannot_do_before_the_first_attack(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(source / "config.toml"), "--work", str(tmp_path / "work")]
    groups = '{ all = ["one-step", "iterative"] }'
    assert cli.evaluate([*words, "--leave-out", "--set", f"evaluate.leave_out.groups={groups}"]) == 2
    assert "no attack is left" in capsys.readouterr().err
    assert cli.evaluate([*words, "--bundle", str(tmp_path / "none.heatward")]) == 2
    assert "none.heatward" in capsys.readouterr().err
    (tmp_path / "foreign.heatward").write_bytes(b"no bundle")
    assert cli.evaluate([*words, "--bundle", str(tmp_path / "foreign.heatward")]) == 1
    assert shards(tmp_path) == set()


def test_a_device_that_is_not_there(source: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "tpu", "cpu;"):
        with pytest.raises(ConfigError, match=r"device: .* cannot be used"):
            open_job(configure(source, tmp_path, device=device), SilentProgress())


@pytest.mark.parametrize(
    ("right", "count", "classes", "low"),
    [
        (10, 100, 10, True),
        (19, 100, 10, True),
        (45, 100, 10, False),
        (55, 100, 2, True),
        (900, 1500, 2, True),  # 60 % of two
        (75, 100, 2, False),
        (23, 700, 1000, True),  # a thousand classes: .033 is no classifier, whatever luck would give
        (490, 700, 1000, False),
        (3, 3, 10, False),
        (1, 3, 10, True),  # may be luck
    ],
)
def test_near_chance(right: int, count: int, classes: int, low: bool) -> None:
    assert near_chance(right, count, 1 / classes) is low


def test_an_answer_that_is_always_the_same_is_chance() -> None:
    truth = torch.tensor([0] * 90 + [1] * 10)
    assert chance_of(truth, torch.zeros(100, dtype=torch.int64), 2) == pytest.approx(0.9)
    assert chance_of(truth, truth, 2) == pytest.approx(0.82)
    assert chance_of(truth[:90], truth[:90], 4) == 0.25  # one class alone cannot tell


def test_random_weights_are_found(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_file(tiny.net().state_dict(), str(tmp_path / "random.safetensors"))
    config = configure(source, tmp_path, classifier={"weights": str(tmp_path / "random.safetensors")})
    with pytest.raises(DataError, match=r"right on .*weights"):
        train(config)

"""A job that is killed and run again gives what an uninterrupted job gives, and does nothing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from notes import Notes
from tiny_job import configure, write_source

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.errors import DataError
from detector.evidence import CONSTANTS
from training import pipeline
from training.config import Stage
from training.fitting.networks import load_networks
from training.job import open_job
from training.load import load_config
from training.progress import SilentProgress
from training.shards import digest_of, read_shard
from training.stages import attack, attribute

# in each stage: a file that is written but not yet in its place when the process dies
DEATHS = (
    "attack/test/clean/00001.safetensors",
    "attack/fit/pgd/00001.safetensors",
    "attribute/fit/fgsm/00000.safetensors",
    "attribute/tune/pgd/00000.safetensors",
    "fit/network.json",
    "calibrate/scores.safetensors",
    "calibrate/settings.json",
    "evaluate/evaluation.json",
    "evaluate/settings.json",
    "detector.heatward",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


def snapshot(work: Path) -> dict[str, int]:
    """When each shard was written."""
    return {path.relative_to(work).as_posix(): path.stat().st_mtime_ns for path in work.rglob("0*.safetensors")}


def run_until_death(source: Path, place: Path, victim: str) -> None:
    """In a process of its own: die by SIGKILL where `victim` is about to get its name."""
    replace = os.replace

    def deadly(temporary: str | Path, path: str | Path) -> None:
        if str(path).endswith(victim):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(temporary, path)

    os.replace = deadly  # type: ignore[assignment]
    pipeline.run(configure(source, place), SilentProgress())


@pytest.fixture(scope="module")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("uninterrupted")
    pipeline.run(configure(source, place), SilentProgress())
    return place


def test_killed_in_every_stage_gives_the_same_bundle(source: Path, uninterrupted: Path, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["training.pipeline", "training.evaluation.evaluate"])
    done: dict[str, int] = {}
    for victim in DEATHS:
        process = processes.Process(target=run_until_death, args=(source, tmp_path, victim))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, f"{victim} was never written"
        assert not [path for path in tmp_path.rglob("*") if path.as_posix().endswith(victim)], "torn or early"
        now = snapshot(tmp_path / "work")
        assert done.items() <= now.items(), f"finished shards were made again after {victim}"
        done = now
    pipeline.run(configure(source, tmp_path), SilentProgress())
    assert snapshot(tmp_path / "work") == done
    assert not list((tmp_path / "work").rglob(".*.tmp"))
    for path in sorted((uninterrupted / "work").rglob("*.safetensors")):
        again = tmp_path / "work" / path.relative_to(uninterrupted / "work")
        assert again.read_bytes() == path.read_bytes(), path
    assert (tmp_path / "detector.heatward").read_bytes() == (uninterrupted / "detector.heatward").read_bytes()


def test_the_bundle_detects_and_says_where_it_came_from(source: Path, uninterrupted: Path) -> None:
    path = uninterrupted / "detector.heatward"
    verdicts = Detector.from_bundle(path, allow=("tiny",)).detect(tiny.images(3).images)
    assert all(0 < verdict.p_value <= 1 for verdict in verdicts)
    assert all(verdict.error_rate is not None and 0 < verdict.error_rate <= 1 for verdict in verdicts)
    manifest = load_bundle(path).manifest
    measured: Any = manifest.measured
    assert [attack["label"] for attack in measured["attacks"]] == ["fgsm", "pgd"]
    assert manifest.provenance["images"] == {"fit": 40, "calibrate": 24, "test": 20, "tune": 16}
    text = manifest.model_dump_json()
    assert str(source) not in text
    assert str(uninterrupted) not in text


def test_tune_images_are_attacked_where_there_are_some(source: Path, tmp_path: Path) -> None:
    for tune, expected in ((16, ["clean", "twin-8", "fgsm", "pgd"]), (0, [])):
        splits = {"calibrate": 24, "test": 20, "tune": tune}
        job = open_job(configure(source, tmp_path, images={"splits": splits}), SilentProgress())
        assert [label for split, label, plans in job.plans("attack") if split == "tune" and plans] == expected


def test_shards_hold_every_attempt_and_evidence_of_successes(uninterrupted: Path) -> None:
    work = uninterrupted / "work"
    clean = read_shard(work / "attack/fit/clean/00000.safetensors")
    pgd = read_shard(work / "attack/fit/pgd/00000.safetensors")
    assert torch.equal(clean["index"], pgd["index"])
    assert torch.equal(clean["prediction"], pgd["origin"])
    moved = (pgd["images"].float() - clean["images"].float()).flatten(1) / 255
    assert torch.allclose(pgd["linf"], moved.abs().amax(1))
    assert torch.allclose(pgd["l2"], moved.norm(dim=1))
    success = pgd["prediction"] != pgd["origin"]
    assert success.any()
    evidence = read_shard(work / "attribute/fit/pgd/00000.safetensors")
    assert torch.equal(evidence["index"], pgd["index"][success])
    assert torch.equal(evidence["candidates"][:, 0], pgd["prediction"][success])
    assert len(read_shard(work / "attribute/fit/clean/00000.safetensors")["index"]) == 16
    # limit 30 of 40 sources
    assert len(read_shard(work / "attack/fit/pgd/00001.safetensors")["index"]) == 14
    assert not (work / "attack/fit/pgd/00002.safetensors").exists()
    # thresholds are set on exactly what a server will compute
    assert read_shard(work / "attribute/calibrate/clean/00000.safetensors")["views.stability"].dtype == torch.float32


def test_changed_settings_redo_what_they_touch_and_no_more(source: Path, tmp_path: Path) -> None:
    def run(**overrides: object) -> tuple[set[str], list[str]]:
        before = snapshot(tmp_path / "work") if (tmp_path / "work").exists() else {}
        notes = Notes()
        job = open_job(configure(source, tmp_path, **overrides), notes)
        attack.run(job)
        attribute.run(job)
        after = snapshot(tmp_path / "work")
        return {name for name, when in after.items() if before.get(name) != when}, notes.notes

    settings = load_config(source / "config.toml").model_dump(mode="json")["attacks"]
    assert len(run()[0]) == len(snapshot(tmp_path / "work"))
    assert run()[0] == set()
    settings[1]["parameters"]["steps"] = 2
    changed, notes = run(attacks=settings)
    assert {name.split("/")[2] for name in changed} == {"pgd"}
    assert any("made.parameters.steps: 3 → 2" in note for note in notes)
    settings[1]["limit"] = {"fit": 40}
    changed, _ = run(attacks=settings)
    assert changed == {
        f"{stage}/fit/pgd/0000{number}.safetensors" for stage in ("attack", "attribute") for number in (1, 2)
    }
    settings[1]["limit"] = {"fit": 16}
    assert run(attacks=settings)[0] == set()
    assert not (tmp_path / "work/attack/fit/pgd/00001.safetensors").exists()
    changed, _ = run(attacks=settings, evidence={"forward_batch": 7})
    assert {name.split("/")[0] for name in changed} == {"attribute"}


def test_evidence_of_other_constants_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = open_job(configure(source, tmp_path), SilentProgress())
    before = {stage: job.digests(stage, "fit") for stage in ("attack", "attribute")}
    monkeypatch.setitem(CONSTANTS, "witness_seed", 2)
    assert job.digests("attack", "fit") == before["attack"]
    assert not set(job.digests("attribute", "fit")) & set(before["attribute"])


def test_a_damaged_shard_is_made_again(source: Path, tmp_path: Path) -> None:
    job = open_job(configure(source, tmp_path), SilentProgress())
    attack.run(job)
    path = tmp_path / "work/attack/fit/fgsm/00000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert digest_of(path) is None
    attack.run(job)
    assert path.read_bytes() == whole


def test_damaged_results_are_made_again(source: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted / "work", tmp_path / "work")
    bundle = (uninterrupted / "detector.heatward").read_bytes()
    for name in (
        "fit/network.safetensors",
        "fit/network.json",
        "calibrate/scores.safetensors",
        "evaluate/evaluation.json",
    ):
        path = tmp_path / "work" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + b"\0" * 10)
        pipeline.run(configure(source, tmp_path), SilentProgress())
        assert path.read_bytes() == whole, name
        assert (tmp_path / "detector.heatward").read_bytes() == bundle, name
    (tmp_path / "work/fit/settings.json").unlink()
    path = tmp_path / "work/fit/network.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="holds no fitted network: delete it"):
        load_networks(path.parent)


def test_scores_are_computed_in_float32(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as PyTorch has it
    open_job(configure(source, tmp_path), SilentProgress())
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("stage", ["attribute", "fit", "calibrate", "evaluate", "bundle"])
def test_a_stage_alone_says_what_must_run_first(source: Path, tmp_path: Path, stage: Stage) -> None:
    job = open_job(configure(source, tmp_path), SilentProgress())
    with pytest.raises(DataError, match=r"run `heatward train (attack|attribute|fit)`"):
        pipeline.run_stage(job, stage)


def test_unreadable_images_may_be_left_out(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for path in (source / "images").rglob("*.png"):
        (images / path.parent.name).mkdir(parents=True, exist_ok=True)
        (images / path.parent.name / path.name).write_bytes(path.read_bytes())
    bad = images / "checker" / "003.png"
    bad.write_bytes(b"no image")
    settings = {"source": str(images)}
    job = open_job(configure(source, tmp_path, images=settings), SilentProgress())
    with pytest.raises(DataError, match=r"003\.png cannot be read"):
        attack.run(job)
    notes = Notes()
    attack.run(open_job(configure(source, tmp_path, images=settings | {"skip_unreadable": True}), notes))
    assert any("left out 1 unreadable" in note and "003.png" in note for note in notes.notes)
    rows = sum(len(read_shard(path)["index"]) for path in (tmp_path / "work/attack").glob("*/clean/0*.safetensors"))
    assert rows == 99


def test_corruptions_are_made_for_the_test_split_beside_what_is_there(
    source: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(uninterrupted / "work", tmp_path / "work")
    before = snapshot(tmp_path / "work")
    settings = {"kinds": ["jpeg", "gaussian-noise"], "severities": [1, 4], "limit": 18}
    monkeypatch.setattr("training.stages.fit.fit_networks", lambda *arguments: pytest.fail("fitted again"))
    pipeline.run(configure(source, tmp_path, corruptions=settings), SilentProgress())
    after = snapshot(tmp_path / "work")
    assert before.items() <= after.items()
    labels = ("jpeg-1", "jpeg-4", "gaussian-noise-1", "gaussian-noise-4")
    assert after.keys() - before.keys() == {
        f"{stage}/test/{label}/0000{number}.safetensors"
        for stage in ("attack", "attribute")
        for label in labels
        for number in (0, 1)
    }
    rows = [
        len(read_shard(tmp_path / f"work/attribute/test/jpeg-4/0000{number}.safetensors")["index"]) for number in (0, 1)
    ]
    assert rows == [16, 2]  # kept whole, up to the limit
    evaluation = json.loads((tmp_path / "work/evaluate/evaluation.json").read_text())
    assert [(cell["kind"], cell["severity"]) for cell in evaluation["corruptions"]["cells"]] == [
        ("jpeg", 1), ("jpeg", 4), ("gaussian-noise", 1), ("gaussian-noise", 4)
    ]  # fmt: skip
    changed = settings | {"kinds": ["jpeg"], "limit": 20}
    job = open_job(configure(source, tmp_path, corruptions=changed), SilentProgress())
    attack.run(job)
    redone = {name for name, when in snapshot(tmp_path / "work").items() if after.get(name) != when}
    assert redone == {"attack/test/jpeg-1/00001.safetensors", "attack/test/jpeg-4/00001.safetensors"}


def test_measured_results_are_those_of_this_detector(source: Path, uninterrupted: Path) -> None:
    """A bundle never carries results of other networks."""
    config = configure(source, uninterrupted, fit={"epochs": 3}, out=str(uninterrupted / "other.heatward"))
    notes = Notes()
    job = open_job(config, notes)
    pipeline.run_stage(job, "fit")
    pipeline.run_stage(job, "bundle")
    assert load_bundle(uninterrupted / "other.heatward").manifest.measured == {}
    assert any("not evaluated" in note for note in notes.notes)
    evaluation = json.loads((uninterrupted / "work/evaluate/evaluation.json").read_text())
    assert evaluation["images"]["test"] == 20

"""Refits measure what they never saw, and are not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_job import configure, write_source

from detector.errors import ConfigError, DataError
from training import cli
from training.config import TrainingConfig
from training.evaluation import leave_out
from training.fitting.networks import fit_networks
from training.job import open_job
from training.progress import SilentProgress
from training.stages import attack, attribute

UNSEEN = {"name": "BIM", "label": "bim", "family": "iterative", "parameters": {"eps": "16/255"}, "train": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def place(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards are made; no detector was ever fitted."""
    place = tmp_path_factory.mktemp("place")
    job = open_job(config(source, place), SilentProgress())
    attack.run(job)
    attribute.run(job)
    return place


def config(source: Path, place: Path, **leave_out: object) -> TrainingConfig:
    attacks = [each.model_dump(mode="json") for each in configure(source, place).attacks]
    settings = {"resamples": 10, "leave_out": {"epochs": 1, **leave_out}}
    return configure(source, place, attacks=[*attacks, UNSEEN], evaluate=settings)


def run(settings: TrainingConfig) -> dict:
    return leave_out.run(open_job(settings, SilentProgress())).dump()


@pytest.fixture(scope="module")
def result(source: Path, place: Path) -> dict:
    return run(config(source, place, matrix=True, clean_only=True))


def test_each_family_is_left_out_in_turn_with_its_unseen_attacks(result: dict) -> None:
    groups = {group["group"]: group for group in result["groups"]}
    assert {name: group["trained_on"] for name, group in groups.items()} == {"one-step": ["pgd"], "iterative": ["fgsm"]}
    assert [found["label"] for found in groups["iterative"]["attacks"]] == ["pgd", "bim"]
    pgd, bim = (found["auroc"]["value"] for found in groups["iterative"]["attacks"])
    assert groups["iterative"]["mean"]["auroc"]["value"] == pytest.approx((pgd + bim) / 2)
    fgsm = groups["one-step"]["attacks"][0]["auroc"]["value"]
    macro = {name: found["auroc"]["value"] for name, found in result["macro"].items()}
    assert macro["mean of groups"] == pytest.approx(((pgd + bim) / 2 + fgsm) / 2)
    assert macro["worst attack"] == min(pgd, bim, fgsm)
    assert result["fit"]["epochs"] == 1 and result["fit"]["ensemble"] == 1


def test_the_matrix_trains_on_one_attack_and_tests_on_all(result: dict, place: Path) -> None:
    matrix = result["cross_attack"]
    assert matrix["tested_on"] == ["fgsm", "pgd", "bim"]
    assert [row["trained_on"] for row in matrix["rows"]] == ["fgsm", "pgd"]
    # leaving out the one-step family leaves PGD alone: the same networks, whichever way they are asked for
    pgd = matrix["rows"][1]["auroc"]
    assert pgd[0] == result["groups"][0]["attacks"][0]["auroc"]
    written = (place / "work/evaluate/leave_out.md").read_text()
    assert "| one-step (fewer than 30 images: means little) | fgsm |" in written
    assert "| trained on | fgsm | pgd | bim |" in written


def test_without_any_attack_what_is_novel_is_measured(result: dict, place: Path) -> None:
    found = result["clean_only"]
    assert [each["label"] for each in found["attacks"]] == ["fgsm", "pgd", "bim"]
    aurocs = [each["auroc"]["value"] for each in found["attacks"]]
    assert found["mean"]["auroc"]["value"] == pytest.approx(sum(aurocs) / 3) and min(aurocs) > 0.5
    network = json.loads((place / "work/evaluate/clean-only/fit/network.json").read_text())
    assert network["families"] == ["clean"]
    assert "alone" in (place / "work/evaluate/leave_out.md").read_text()


def test_an_unchanged_refit_is_not_repeated(
    source: Path, place: Path, result: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leave_out, "fit_networks", lambda *arguments: pytest.fail("fitted again"))
    assert run(config(source, place, matrix=True, clean_only=True)) == result
    # scores are gone, networks are there
    (place / "work/evaluate/leave-out/one-step/scores.safetensors").unlink()
    assert run(config(source, place, matrix=True, clean_only=True)) == result
    assert json.loads((place / "work/evaluate/leave_out.json").read_text()) == result


def test_a_killed_run_goes_on_with_the_next_group(
    source: Path, place: Path, result: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    whole = fit_networks

    def counting(settings: TrainingConfig, work: Path, progress: SilentProgress, folder: Path) -> None:
        if len(fitted) == 1:
            fitted.append("killed")
            raise KeyboardInterrupt
        whole(settings, work, progress, folder)
        fitted.append(folder.parent.name)

    monkeypatch.setattr(leave_out, "fit_networks", counting)
    changed = config(source, place, epochs=2, groups={"a": ["one-step"], "b": ["iterative"]})
    with pytest.raises(KeyboardInterrupt):
        run(changed)
    assert [group["group"] for group in run(changed)["groups"]] == ["a", "b"]
    assert fitted == ["a", "killed", "b"]


def test_mistakes_are_named(source: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"'all' \(one-step, iterative\) no attack is left"):
        run(config(source, place, groups={"all": ["one-step", "iterative"]}))
    with pytest.raises(
        ConfigError, match=r"groups\.x: no attack is of family 'spatial' \(known: iterative, one-step\)"
    ):
        config(source, place, groups={"x": ["spatial"]})
    with pytest.raises(DataError, match="heatward train attribute"):
        run(config(source, tmp_path))
    assert cli.evaluate(["--leave-out", "--bundle", "x.heatward", "--config", str(source / "config.toml")]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_command_makes_its_shards_and_prints_the_table(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(source / "config.toml"), "--work", str(tmp_path / "work"), "--set", "fit.epochs=1"]
    assert cli.evaluate(["--leave-out", *words]) == 0
    printed = capsys.readouterr().out
    assert "one-step" in printed and "worst attack" in printed
    assert not (tmp_path / "work/evaluate/evaluation.json").exists()

"""A plan says what a run will do, makes nothing, and is what the run then does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_job import write_source

from training import cli
from training.config import STAGES

GROWS = "splits = { fit = 0.4, calibrate = 0.35, test = 0.25 }\ngrows = true"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose images grow, not run yet."""
    folder = write_source(tmp_path_factory.mktemp("place"))
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("splits = { calibrate = 24, test = 20, tune = 16 }", GROWS))
    return folder


def words(place: Path) -> list[str]:
    out = place / "detector.heatward"
    return ["--config", str(place / "config.toml"), "--work", str(place / "work"), "--out", str(out)]


def plan(place: Path, capsys: pytest.CaptureFixture[str], *stage: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.train([*stage, "--plan", "--json", *words(place)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def files(place: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


def test_a_plan_is_what_the_next_run_does(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    first = plan(place, capsys)
    assert files(place) == before and not (place / "work").exists()
    assert [stage["stage"] for stage in first["stages"]] == [
        "attack", "attribute", "fit", "calibrate", "evaluate", "bundle"
    ]  # fmt: skip
    assert first["seconds"] is None and all(each["kept"] == 0 for each in first["shards"])
    assert cli.train(["--plan", *words(place)]) == 0
    assert "in all: not measured yet" in capsys.readouterr().out
    alone = plan(place, capsys, "attribute")
    assert [stage["stage"] for stage in alone["stages"]] == ["attribute"]
    assert alone["shards"] == [each for each in first["shards"] if each["stage"] == "attribute"]
    assert [stage["stage"] for stage in plan(place, capsys, "fit")["stages"]] == ["fit"]

    assert cli.train(["--json", *words(place)]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["bundle"] == str(place / "detector.heatward") and told["stages"] == list(STAGES)
    assert Path(told["report"]).exists() and told["measured"]["attacks"][0]["label"] == "fgsm"
    lines = [json.loads(line) for line in said.err.splitlines()]  # no terminal here
    assert any(line.get("task") == "attack fit/fgsm" and line["ended"] for line in lines)
    assert cli.train(["bundle", "--json", *words(place)]) == 0
    assert json.loads(capsys.readouterr().out) == {"stages": ["bundle"], "bundle": str(place / "detector.heatward")}
    assert cli.evaluate(["--json", *words(place)]) == 0
    said = capsys.readouterr()
    assert "--out: passed over; only with --bundle FILE --out FILE does" in said.err
    assert json.loads(said.out) == {"report": told["report"], "measured": told["measured"]}
    assert all(json.loads(line) for line in said.err.splitlines())
    idle = plan(place, capsys)
    assert [stage["stage"] for stage in idle["stages"]] == ["bundle"]
    assert all(each["made"] == 0 for each in idle["shards"]) and idle["seconds"] is not None
    assert all((each["new"], each["gone"]) == (0, 0) for each in idle["images"].values())

    checker = place / "images" / "checker"
    gone = sorted(checker.glob("*.png"))[0]
    shutil.move(gone, checker / "renamed.png")
    before = files(place)
    changed = plan(place, capsys)
    assert files(place) == before
    (home,) = [split for split, each in changed["images"].items() if each["new"]]
    assert (changed["images"][home]["new"], changed["images"][home]["gone"]) == (1, 1)
    made = {(each["stage"], each["split"], each["label"]): each["made"] for each in changed["shards"] if each["made"]}
    assert {split for _, split, _ in made} == {home} and changed["seconds"] > 0
    assert cli.train(["attack", *words(place)]) == 0
    after = files(place)
    written = {path.relative_to(place / "work").parts[:3] for path in after if after[path] != before.get(path)}
    written = {each for each in written if len(each) == 3}
    assert written == {each for each in made if each[0] == "attack"}


def test_images_that_do_not_grow_are_counted(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--plan", *words(place), "--work", str(tmp_path / "w"), "--set", "images.grows=false"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "images fit: 40" and said[-1] == "in all: not measured yet"
    assert "attack fit/pgd: 2 of 2 shards, images: 30, not measured yet" in said


def test_what_would_end_the_run_ends_the_plan(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = place / "images" / "checker" / "bad.png"
    bad.write_bytes(b"\x89PNG")
    try:
        for more in (["--plan"], []):
            assert cli.train([*more, *words(place)]) == 1
            assert f"1 images cannot be read, the first: {bad}" in capsys.readouterr().err
    finally:
        bad.unlink()

"""A whole retraining: a champion that is better or worse, a kill in every stage, and two jobs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed_retraining import PRELOADED, options, run_until_death
from tiny_job import configure
from tiny_store import ALWAYS, NEVER, make_store, words

from detector.bundle import load_bundle, read_manifest
from detector.bundle.folder import POINTER, newest
from detector.lock import hold
from forensics.report import app
from training.progress import SilentProgress
from training.retraining import cli
from training.retraining.retrain import retrain
from training.retraining.store import KEPT

DEATHS = (
    "retrain/run.json",
    "retrain/traffic.safetensors",
    "attack/test/pgd/00001.safetensors",
    "attribute/fit/fgsm/00000.safetensors",
    "fit/network.json",
    "calibrate/scores.safetensors",
    "evaluate/evaluation.json",
    "retrain/challenger.heatward",
    "compare/.*/clean/00000.safetensors",
    "compare/.*/pgd/00001.safetensors",
    "compare/.*/traffic/00000.safetensors",
    "retrain/examples.safetensors",
    "retrain/comparison.json",
    "store/.incoming.heatward",
    "store/champion.json",
    "after the pointer",
)


def test_a_better_challenger_is_promoted_and_says_where_it_comes_from(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, NEVER)
    first = store.champion()
    assert app.retrain(words(source, place, "--json")) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    page = Path(told["report"]).read_text()
    assert "The challenger becomes champion" in page and "Only the challenger flags these" in page
    assert told["comparison"]["promoted"] and told["comparison"]["champion"] == first.digest
    assert told["champion"]["parent"] == first.digest
    assert all(isinstance(json.loads(line), dict) for line in said.err.splitlines())
    manifest = read_manifest(newest(store.folder))
    assert manifest.digest == told["champion"]["digest"] and manifest.measured
    known: Any = manifest.provenance
    assert (
        known["parent"] == first.digest
        and known["seed"] == 3
        and set(known["data"]) == {"fit", "calibrate", "test", "tune"}
    )
    assert len(known["recipe"]) == len(known["code"]) == 64 and known["compared"]["rate"] == 0.05
    assert str(source) not in manifest.model_dump_json() and str(place) not in manifest.model_dump_json()

    assert cli.retrain(words(source, place)) == 3  # once more: nothing is new
    assert "nothing is new" in capsys.readouterr().out
    assert newest(store.folder).name == told["champion"]["bundle"]
    assert [each.event for each in store.history().entries] == ["adopted", "promoted", KEPT]
    assert cli.history([str(store.folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["champion"] == shown["history"][1] and shown["damaged_lines"] == 0
    assert cli.rollback([str(store.folder)]) == 0
    assert newest(store.folder).name == "first.heatward"
    assert cli.history([str(store.folder)]) == 0
    assert "rolled back" in capsys.readouterr().out
    assert cli.retrain(words(source, place)) == 3  # what somebody rolled back from does not come again by itself
    assert "again, which somebody rolled back from" in capsys.readouterr().out


def test_a_challenger_that_is_worse_on_old_attacks_is_not(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, ALWAYS)
    store.champion()
    before = (store.folder / POINTER).read_bytes()
    assert cli.retrain(words(source, place)) == 3
    assert "not promoted: " in (said := capsys.readouterr().out) and "the challenger flags less" in said
    assert (store.folder / POINTER).read_bytes() == before
    assert store.history().entries[-1].event == KEPT and "flags less" in store.history().entries[-1].why


def test_a_store_that_another_job_uses_is_left_alone(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, NEVER)
    with store.hold():
        assert cli.retrain(words(source, place)) == 75
    assert f"store: another job (process {os.getpid()} on " in capsys.readouterr().err
    with hold(place / "work"):
        assert cli.retrain(words(source, place)) == 75
    assert "work: another job" in capsys.readouterr().err


def test_what_cannot_be_compared_is_said_at_once(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, NEVER)
    assert cli.retrain([*words(source, place)[:-4], "--rate", "0.01"]) == 1
    assert "--rate 0.01: the champion was calibrated on 24 clean images, which reach 0.04" in capsys.readouterr().err
    bundle = load_bundle(store.path(store.champion()))
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"fingerprint": "0" * 64}))
    store.promote(other, "promoted", "a test", store.champion())
    assert cli.retrain(words(source, place)) == 1
    assert "Begin another store for another classifier" in capsys.readouterr().err
    (store.folder / store.champion().bundle).unlink()
    assert cli.retrain(words(source, place)) == 1
    assert "which is gone" in capsys.readouterr().err
    assert cli.retrain([*words(source, place)[2:], "--champion", str(place / "none")]) == 2
    assert "is no store" in capsys.readouterr().err


def test_killed_in_every_stage_gives_the_same_champion(source: Path, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from tiny_records import record, write

    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    store = make_store(tmp_path, trained, NEVER)
    first = store.champion()
    write(tmp_path / "recorded", map(record, range(6)))
    for victim in DEATHS:
        process = processes.Process(target=run_until_death, args=(source, tmp_path, victim))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, f"{victim} was never written"
    pointed = store.champion()
    outcome = retrain(configure(source, tmp_path), store, options(tmp_path), SilentProgress())
    assert outcome.comparison.promoted and outcome.champion == pointed and pointed.parent == first.digest
    assert [each.event for each in store.history().entries] == ["adopted", "promoted"]
    uninterrupted = load_bundle(trained / "detector.heatward").manifest
    assert {**uninterrupted.files, "manifest.json": ""} == {
        **read_manifest(newest(store.folder)).files,
        "manifest.json": "",
    }
    assert len(list(store.folder.glob("*.heatward"))) == 2

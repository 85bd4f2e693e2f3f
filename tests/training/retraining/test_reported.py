"""Reported attacks are a family that is learnt: from the recorded images, judged anew, and measured on other ones."""

from __future__ import annotations

import json
import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from killed_retraining import PRELOADED, options, run_until_death
from sample_requests import png
from tiny_job import configure
from tiny_store import NEVER, make_store, words

pytest.importorskip("pyarrow", reason="the extra `record` is not installed")

from tiny_records import label, record, write

from detector.bundle import load_bundle, read_manifest
from detector.records.schema import Record, Truth
from training.progress import SilentProgress
from training.retraining import cli
from training.retraining.reported import FEWEST
from training.retraining.retrain import retrain
from training.retraining.traffic import Traffic, held_out, lessons, read_traffic
from training.shards import read_shard

SHARD = "attack/fit/reported/00000.safetensors"


def told(capsys: pytest.CaptureFixture[str], source: Path, place: Path, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    code = cli.retrain(words(source, place, "--records", str(place / "recorded"), "--json", *more))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if found["comparison"]["promoted"] else 3)
    return {**found, "rows": {row["label"]: row for row in found["comparison"]["rows"]}}


def attack(number: int) -> Record:
    """Noise, which a detector that learnt from some of it can flag; every fourth shows what the classifier sees."""
    noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return record(number) if number % 4 == 0 else record(number, png(noise))


def recorded(place: Path, count: int = 36) -> Traffic:
    """Attacks, all that many; what some of them show is known."""
    folder = write(place / "recorded", map(attack, range(count)), dict.fromkeys(range(count), Truth.ATTACK))
    label(folder, dict.fromkeys(range(0, count, 4), Truth.TRUE_LABEL), shows="horizontal")
    label(folder, dict.fromkeys(range(2, count, 4), Truth.TRUE_LABEL), shows="vertical")
    return read_traffic(folder, 100, SilentProgress())


def test_half_of_the_reported_attacks_are_learnt_and_the_other_half_measured_on(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, NEVER)
    attacks = recorded(place).attacks
    first = told(capsys, source, place, "--set", "shard_size=8")
    assert first["rows"]["reported attacks"]["images"] == len(held_out(attacks))
    bundle = load_bundle(place / "work/retrain/challenger.heatward")
    assert bundle.manifest.families == ("clean", "one-step", "iterative", "reported")
    assert len(bundle.calibration_scores) == len(load_bundle(trained / "detector.heatward").calibration_scores)
    paths = sorted((place / "work/attack/fit/reported").glob("*.safetensors"))
    assert len(paths) == -(-len(lessons(attacks)) // 8)
    shards = [read_shard(path) for path in paths]
    looked_at = [read_shard(place / "work/attribute/fit/reported" / path.name) for path in paths]
    net = tiny.classifier()
    for shard, evidence in zip(shards, looked_at, strict=True):
        prediction = net(shard["images"].float() / 255).argmax(1)
        assert shard["prediction"].equal(prediction) and evidence["prediction"].equal(prediction)
        assert set(shard["origin"].tolist()) <= {-1, *map(tiny.CLASSES.index, ("horizontal", "vertical"))}
        assert bool((shard["prediction"] != shard["origin"]).all())
    rightly = [each for each in lessons(attacks) if each.true_label == "horizontal"]
    assert rightly and sum(len(shard["index"]) for shard in shards) == len(lessons(attacks)) - len(rightly)

    known = {"reported": [each.identity[:16] for each in attacks]}  # as a promoted bundle has it
    manifest = bundle.manifest.model_copy(update={"provenance": bundle.manifest.provenance | known})
    store.promote(replace(bundle, manifest=manifest), "promoted", "a test", store.champion())
    write(place / "recorded", map(attack, range(50, 62)), dict.fromkeys(range(50, 62), Truth.ATTACK))
    newer = read_traffic(place / "recorded", 100, SilentProgress()).attacks
    second = told(capsys, source, place, "--set", "shard_size=8")
    row = second["rows"]["attacks reported before"]
    assert (row["group"], row["images"]) == ("reported before", len(held_out(attacks)))
    assert second["rows"]["reported attacks"]["images"] == len(held_out(newer)) - len(held_out(attacks))
    assert second["comparison"]["on_new"]["count"] == second["rows"]["reported attacks"]["images"]


def test_too_few_are_measured_on_and_not_learnt(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(place, trained, NEVER)
    attacks = recorded(place, FEWEST).attacks
    assert 0 < len(lessons(attacks)) < FEWEST
    cli.retrain(words(source, place, "--records", str(place / "recorded")))
    assert f"at least {FEWEST} are needed to learn from" in capsys.readouterr().err
    assert "reported" not in read_manifest(place / "work/retrain/challenger.heatward").families


def test_a_label_of_that_name_is_left_to_the_configuration(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(place, trained, NEVER)
    recorded(place)
    text = (source / "config.toml").read_text().replace('label = "pgd"', 'label = "reported"')
    (place / "config.toml").write_text(text)
    more = ["--records", str(place / "recorded"), "--forget", "pgd", "--config", str(place / "config.toml")]
    assert cli.retrain(words(source, place, *more)) in (0, 3)
    assert "an attack is labelled 'reported'" in capsys.readouterr().err
    assert read_manifest(place / "work/retrain/challenger.heatward").families == ("clean", "one-step", "iterative")


def test_a_kill_gives_the_same_detector(source: Path, trained: Path, place: Path, tmp_path_factory: Any) -> None:
    def challenger(folder: Path) -> dict[str, Any]:
        return dict(read_manifest(folder / "work/retrain/challenger.heatward").files)

    store = make_store(place, trained, NEVER)
    recorded(place)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    for victim in (SHARD, SHARD.replace("attack", "attribute")):
        process = processes.Process(target=run_until_death, args=(source, place, victim))
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, f"{victim} was never written"
    retrain(configure(source, place), store, options(place), SilentProgress())
    whole = tmp_path_factory.mktemp("whole")
    again = make_store(whole, trained, NEVER)
    recorded(whole)
    retrain(configure(source, whole), again, options(whole), SilentProgress())
    assert challenger(place) == challenger(whole)

"""What a server recorded is measured on and learnt from: each image once, by its last label, and never both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from notes import Notes
from tiny_store import NEVER, make_store, words

pytest.importorskip("pyarrow", reason="the extra `record` is not installed")

from tiny_records import label, record, write

from detector.bundle import load_bundle, read_manifest
from detector.bundle.folder import newest
from detector.errors import DataError
from detector.records.schema import Record, Truth
from training.progress import SilentProgress
from training.retraining import cli
from training.retraining.traffic import Traffic, held_out, lessons, read_traffic, write_lessons


def names(some: Iterable[object]) -> list[str]:
    return [each.name for each in some]  # type: ignore[attr-defined]


def test_an_image_counts_once_by_its_last_label(tmp_path: Path) -> None:
    records = [record(0), record(1), record(2), record(3, of=0), record(4, of=1), record(5), record(6, of=5)]
    folder = write(tmp_path / "recorded", records, {1: Truth.FALSE_ALARM, 2: Truth.FALSE_ALARM, 99: Truth.ATTACK})
    label(folder, {2: Truth.ATTACK, 5: Truth.ATTACK, 6: Truth.FALSE_ALARM})
    notes = Notes()
    found = read_traffic(folder, 100, notes)
    assert names(found.clean) == ["r000"]
    assert names(found.false_alarms) == ["r001"]  # r004 shows the same, unlabelled
    assert names(found.attacks) == ["r002"]
    said = "\n".join(notes.notes)
    assert "1 images have contradicting labels: the last one counts" in said
    assert "1 images came more than once, with other labels, and were left out" in said
    assert "1 labels belong to images that are not recorded" in said


def test_of_one_client_only_its_images_are_taken_but_everybodys_attacks_count(tmp_path: Path) -> None:
    mine = [replace(record(number, of=of), client="shop") for number, of in ((0, 0), (1, 1), (2, 2))]
    theirs = [replace(record(number, of=of), client="bank") for number, of in ((3, 3), (4, 1), (5, 0), (6, 6))]
    folder = write(tmp_path / "recorded", [*theirs, *mine], {4: Truth.ATTACK, 6: Truth.FALSE_ALARM})
    found = read_traffic(folder, 100, SilentProgress(), client="shop")
    assert names(found.clean) == ["r000", "r002"]  # r001 shows what r004 shows, an attack
    assert names(found.false_alarms) == []
    with pytest.raises(DataError, match="nothing of client 'shopp'; did you mean 'shop'"):
        read_traffic(folder, 100, SilentProgress(), client="shopp")


def test_what_an_image_shows_and_whether_it_is_attacked_are_two_questions(tmp_path: Path) -> None:
    folder = write(tmp_path / "recorded", [record(0), record(1, of=0)], {0: Truth.ATTACK})
    label(folder, {0: Truth.TRUE_LABEL, 1: Truth.TRUE_LABEL}, shows="diagonal")
    label(folder, {1: Truth.TRUE_LABEL}, shows="vertical")
    notes = Notes()
    (found,) = read_traffic(folder, 100, notes).attacks
    assert (found.name, found.true_label, found.predicted) == ("r000", "vertical", "checker")
    assert any("1 images have contradicting labels" in note for note in notes.notes)


def test_only_the_newest_are_taken_and_what_has_no_image_is_counted(tmp_path: Path) -> None:
    without = Record(**(asdict(record(9)) | {"image": None}))
    notes = Notes()
    found = read_traffic(write(tmp_path / "recorded", [*map(record, range(8)), without]), 3, notes)
    assert names(found.clean) == ["r006", "r007"]
    assert any("1 records have no image" in note for note in notes.notes)
    with pytest.raises(DataError, match="is no folder of records"):
        read_traffic(tmp_path / "none", 3, notes)


def test_a_damaged_shard_is_skipped_and_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "recorded", [record(0)])
    write(folder, [record(1)])
    shard = sorted((folder / "records").glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    notes = Notes()
    assert names(read_traffic(folder, 10, notes).clean) == ["r001"]
    assert any("1 damaged shards were skipped" in note for note in notes.notes)


def test_an_image_is_learnt_from_or_measured_on_and_never_changes(tmp_path: Path) -> None:
    folder = write(tmp_path / "recorded", map(record, range(40)), dict.fromkeys(range(40), Truth.FALSE_ALARM))
    found = read_traffic(folder, 10, SilentProgress())
    learnt, measured = set(names(lessons(found.false_alarms))), set(names(held_out(found.false_alarms)))
    assert len(learnt) > 8 and len(measured) > 8 and not learnt & measured
    assert {name for name, _ in found.to_calibrate} == measured
    write(folder, map(record, range(40, 50)))
    assert set(names(lessons(read_traffic(folder, 10, SilentProgress()).false_alarms))) == learnt


def test_lessons_lie_in_folders_of_classes_and_go_when_the_records_do(tmp_path: Path) -> None:
    records = [record(0), record(1, shows="../x"), record(2, shows="dog"), record(3, b"no image")]
    folder = write(tmp_path / "recorded", records, dict.fromkeys(range(4), Truth.FALSE_ALARM))
    found = read_traffic(folder, 10, SilentProgress()).false_alarms
    notes = Notes()
    assert write_lessons(tmp_path / "lessons", found, tiny.CLASSES, notes)
    assert [path.parent.name for path in (tmp_path / "lessons").glob("*/*")] == ["checker"]
    assert len(notes.notes) == 3
    assert not write_lessons(tmp_path / "lessons", Traffic().false_alarms, tiny.CLASSES, notes)
    assert not (tmp_path / "lessons").exists()


def test_a_retraining_measures_on_traffic_and_learns_false_alarms(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(place, trained, NEVER)
    labels = dict.fromkeys(range(12), Truth.FALSE_ALARM) | dict.fromkeys(range(12, 20), Truth.ATTACK)
    folder = write(place / "recorded", map(record, range(50)), labels)
    traffic = read_traffic(folder, 100, SilentProgress())
    code = cli.retrain(words(source, place, "--records", str(folder), "--json"))
    said = capsys.readouterr()
    told = json.loads(said.out)["comparison"]
    rows = {row["label"]: (row["group"], row["images"], row["champion"]) for row in told["rows"]}
    assert rows["traffic"] == ("traffic", 30, 0.0) and rows["reported attacks"] == (
        "reported attack",
        len(held_out(traffic.attacks)),
        0.0,
    )
    assert rows["reported false alarms"] == ("traffic", len(held_out(traffic.false_alarms)), 0.0)
    assert code == (0 if told["promoted"] else 3)
    challenger = read_manifest(place / "work" / "retrain" / "challenger.heatward")
    before = read_manifest(trained / "detector.heatward")
    images: tuple[dict[str, int], ...] = (challenger.provenance["images"], before.provenance["images"])  # type: ignore[assignment]
    assert (
        images[0]["fit"] == images[1]["fit"] + len(lessons(traffic.false_alarms))
        and images[0]["test"] == images[1]["test"]
    )
    if told["promoted"]:
        known: Any = read_manifest(newest(store.folder)).provenance["reported"]
        assert known == sorted(each.identity[:16] for each in traffic.attacks)
        assert newest(store.folder).name.startswith("0001-")
        assert cli.rollback([str(store.folder)]) == 0
    write(folder, map(record, range(50, 53)))  # the next night, the same champion and settings
    capsys.readouterr()
    cli.retrain(words(source, place, "--records", str(folder), "--json"))
    (row,) = [row for row in json.loads(capsys.readouterr().out)["comparison"]["rows"] if row["label"] == "traffic"]
    assert row["images"] == 33


def test_thresholds_from_records_leave_out_reported_attacks(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, trained, NEVER)
    folder = write(tmp_path / "recorded", map(record, range(40)), dict.fromkeys(range(5), Truth.ATTACK))
    wanted = ["--records", str(folder), "--trusted", "tiny", "--rate", "0.05", "--json"]
    assert cli.recalibrate([str(store.folder), *wanted]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 35
    assert len(load_bundle(newest(store.folder)).calibration_scores) == 35

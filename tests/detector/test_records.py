"""Records on disk: whole shards or none, merged and removed in the order of writing, and what a reader skips."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the extra `record` is not installed")

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detector.errors import DataError
from detector.records import shards
from detector.records.reader import RecordReader
from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder

NOW = datetime(2026, 11, 29, tzinfo=UTC)
FOREVER = 1e12
DOCS = Path(__file__).parents[2] / "docs" / "records.md"


def record(number: int, **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {name: 0 for name in ("predicted", "recovered", "corrected", "input_bytes")}
    values |= {name: 0.5 for name in ("false_positive_rate", "p_value", "attack_score", "probability")}
    texts = ("call_id", "client", "model_name", "model_version", "bundle_sha256", "predicted_name", "recovered_name")
    values |= dict.fromkeys((*texts, "corrected_name"), "")
    values |= {"record_id": f"r{number}", "request_id": f"q{number}", "time": NOW, "input_sha256": "0" * 64}
    return asdict(Record(**(values | {"height": 8, "width": 8, "attacked": False} | fields)))


def label(record_id: str, truth: Truth, true_label: str = "") -> dict[str, Any]:
    return asdict(Label(record_id=record_id, truth=truth.value, true_label=true_label, by="me", time=NOW))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recorded"


@pytest.fixture
def written(folder: Path) -> ShardFolder:
    return ShardFolder(folder / "records", schema_of(Record))


@pytest.fixture
def labelled(folder: Path) -> ShardFolder:
    return ShardFolder(folder / "labels", schema_of(Label))


def ids(folder: Path) -> list[str]:
    return [each.record_id for each in RecordReader(folder).records()]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("*.parquet"))


def test_what_is_written_is_read_in_its_order_and_large_columns_on_demand(folder: Path, written: ShardFolder) -> None:
    written.write([record(1, image=b"png"), record(2)])
    written.write([record(3)])
    assert ids(folder) == ["r1", "r2", "r3"]
    reader = RecordReader(folder)
    assert [each.image for each in reader.records()] == [None] * 3
    assert [each.image for each in reader.records(images=True)] == [b"png", None, None]
    assert reader.find("q2") == reader.find("r2") == ["r2"] and reader.find("r") == []


def test_two_images_of_one_request_id_are_told_apart_by_their_calls(folder: Path, written: ShardFolder) -> None:
    written.write([record(1, request_id="0", call_id="a"), record(2, request_id="0", call_id="b/c")])
    reader = RecordReader(folder)
    assert reader.find("0") == ["r1", "r2"]
    assert (reader.find("a/0"), reader.find("b/c/0"), reader.find("c/0")) == (["r1"], ["r2"], [])


def test_a_scientist_reads_a_shard_with_what_they_have(folder: Path, written: ShardFolder) -> None:
    written.write([record(1, p_value=0.25)])
    table = pq.read_table(folder / "records")
    assert table["p_value"].to_pylist() == [0.25] and table["time"].to_pylist() == [NOW]


def test_many_small_shards_become_few_and_no_row_counts_twice(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    expected = []
    for number in range(10):
        written.write([record(number)])
        expected.append(f"r{number}")
        assert ids(folder) == expected, "while parts and what replaces them are both there"
    assert len(files(folder)) > 10, "whoever reads still finds the parts"
    monkeypatch.setattr(shards, "READING_S", 0.0)
    ShardFolder(folder / "records", schema_of(Record))  # a new start removes what was replaced long ago
    assert ids(folder) == expected
    assert len(files(folder)) == 2  # nine rows of three merged thrice, and one


def test_a_new_start_leaves_to_readers_what_was_replaced_just_now(
    folder: Path, labelled: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    for name in "abc":
        labelled.write([label(name, Truth.ATTACK)])
    there = [shard.path for shard in shards.shards_in(folder / "labels")]
    started = time.monotonic()
    again = ShardFolder(folder / "labels", schema_of(Label))
    again.write([label("d", Truth.ATTACK)])
    assert all(path.exists() for path in there), "whoever listed them still finds them"
    assert [each.record_id for each in RecordReader(folder).all_labels()] == ["a", "b", "c", "d"]
    monkeypatch.setattr(time, "monotonic", lambda: started + shards.READING_S + 60)
    again.write([label("e", Truth.ATTACK)])
    assert [path.exists() for path in there].count(True) == 1, "the parts stayed"
    assert [each.record_id for each in RecordReader(folder).all_labels()] == ["a", "b", "c", "d", "e"]


def test_a_death_between_merging_and_removing_loses_and_doubles_nothing(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 2)
    written.write([record(1)])
    kept = folder.parent / "kept"
    shutil.copytree(folder, kept)
    written.write([record(2)])
    for part in files(kept):
        shutil.copy(part, folder / "records" / part.name)
    assert ids(folder) == ["r1", "r2"]


def test_a_damaged_shard_does_not_hold_up_the_merging_of_others(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    for number in range(2):
        written.write([record(number)])
    files(folder)[0].write_bytes(b"PAR1")
    for number in range(2, 5):
        written.write([record(number)])
    assert ids(folder) == ["r1", "r2", "r3", "r4"]
    assert [each.name[13] for each in files(folder)].count("1") == 1, "the others were merged"


def test_shards_from_before_a_column_are_read_and_merged_with_others(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = ("error_rate", "calibration_group", "tail_estimate", "patch_p_value")
    old = {name: value for name, value in record(1).items() if name not in added}
    columns = pa.schema([field for field in schema_of(Record) if field.name not in added])
    ShardFolder(folder / "records", columns).write([old])
    monkeypatch.setattr(shards, "TOGETHER", 2)
    again = ShardFolder(folder / "records", schema_of(Record))
    expected = [(None, None, None, None), (0.25, "cat", 1e-4, 0.01)]

    def told(where: pc.Expression | None = None) -> list[tuple[Any, ...]]:
        return [tuple(getattr(each, name) for name in added) for each in RecordReader(folder).records(where=where)]

    assert told() == expected[:1]
    again.write([record(2, **dict(zip(added, expected[1], strict=True)))])
    assert files(folder)[-1].name[13] == "1", "they were merged"
    assert told() == expected
    assert told(pc.field("tail_estimate") < 0.001) == expected[1:]


def test_only_the_records_are_read_that_are_asked_for(folder: Path, written: ShardFolder) -> None:
    written.write([record(1, image=b"one"), record(2, image=b"two")])
    written.write([record(3)])
    (found,) = RecordReader(folder).records(images=True, where=pc.field("record_id") == "r2")
    assert (found.record_id, found.image) == ("r2", b"two")
    assert not list(RecordReader(folder).records(where=pc.field("p_value") < 0.5))


def test_the_oldest_are_removed_until_the_others_fit(folder: Path, written: ShardFolder) -> None:
    for number in range(5):
        written.write([record(number)])
    size = files(folder)[-1].stat().st_size
    written.remove_old(2.5 * size, FOREVER)
    assert ids(folder) == ["r3", "r4"]


def test_what_is_too_old_is_removed(folder: Path, written: ShardFolder) -> None:
    written.write([record(1)])
    os.utime(files(folder)[0], (time.time() - 100, time.time() - 100))
    again = ShardFolder(folder / "records", schema_of(Record))
    again.write([record(2)])
    again.remove_old(FOREVER, 50)
    assert ids(folder) == ["r2"]


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_a_clock_that_jumps_removes_and_reorders_nothing(
    folder: Path, written: ShardFolder, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write([record(1)])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    written.write([record(2)])
    written.remove_old(FOREVER, 50)
    assert ids(folder) == ["r1", "r2"]


DAY_S = 86_400


@pytest.mark.parametrize("recorded_meanwhile", [False, True])
def test_a_clock_that_is_ahead_at_the_start_removes_nothing_until_it_ran_on_for_an_hour(
    folder: Path,
    written: ShardFolder,
    recorded_meanwhile: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    written.write([record(1)])
    real, steady, ahead_s = time.time(), time.monotonic(), 400.0 * DAY_S
    monkeypatch.setattr(time, "time", lambda: real + ahead_s)
    monkeypatch.setattr(time, "monotonic", lambda: steady)
    if recorded_meanwhile:  # by a start before this one, whose clock was ahead, too
        written.write([record(2)])
        os.utime(files(folder)[-1], (real + ahead_s, real + ahead_s))
    again = ShardFolder(folder / "records", schema_of(Record))
    for _ in range(2):
        again.remove_old(FOREVER, 30 * DAY_S)
    assert "r1" in ids(folder)
    assert [each.message for each in caplog.records if "the clock is wrong" in each.message] == [
        "nothing was written for days, or the clock is wrong: for an hour no shard is removed for its age"
    ]
    monkeypatch.setattr(time, "time", lambda: real + ahead_s + shards.PATIENCE_S)
    monkeypatch.setattr(time, "monotonic", lambda: steady + shards.PATIENCE_S)
    again.remove_old(FOREVER, 30 * DAY_S)
    assert ids(folder) == ["r2"] * recorded_meanwhile, "the server was off for a year: they are too old"


def test_a_clock_that_is_set_right_within_the_hour_loses_nothing(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write([record(1)])
    real, steady = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real + 400 * DAY_S)
    again = ShardFolder(folder / "records", schema_of(Record))
    again.remove_old(FOREVER, 30 * DAY_S)
    for hours in (0, 2):
        monkeypatch.setattr(time, "time", lambda hours=hours: real + hours * 3600)
        monkeypatch.setattr(time, "monotonic", lambda hours=hours: steady + hours * 3600)
        again.remove_old(FOREVER, 30 * DAY_S)
    assert ids(folder) == ["r1"]


def test_records_of_a_clock_that_was_ahead_hold_up_no_removal(folder: Path, written: ShardFolder) -> None:
    for number, days in enumerate([-1000, 5, 4, 0]):
        written.write([record(number)])
        os.utime(files(folder)[-1], (time.time() - days * DAY_S,) * 2)
    again = ShardFolder(folder / "records", schema_of(Record))
    again.remove_old(FOREVER, 4.5 * DAY_S)
    assert ids(folder) == ["r2", "r3"]


def test_a_full_disk_leaves_what_was_there_and_no_part(
    folder: Path, written: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write([record(1)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            written.write([record(2)])
    assert [path.name for path in (folder / "records").iterdir()] == [files(folder)[0].name]
    written.write([record(3)])
    assert ids(folder) == ["r1", "r3"]


def test_what_a_killed_process_left_half_written_is_removed_at_the_next_start(folder: Path) -> None:
    (folder / "records").mkdir(parents=True)
    half = folder / "records" / ".000000000001.0.c0ffee00.parquet.12ab34cd.tmp"
    young = half.with_name(half.name.replace("12ab34cd", "56ef78ab"))
    for path in (half, young):
        path.write_bytes(b"PAR1")
    os.utime(half, (time.time() - 3600,) * 2)
    ShardFolder(folder / "records", schema_of(Record))
    assert not half.exists()
    assert young.exists(), "another process may be writing it"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_shard_cut_short_is_skipped_and_counted(folder: Path, written: ShardFolder, share: float) -> None:
    for number in range(3):
        written.write([record(number)])
    victim = files(folder)[1]
    victim.write_bytes(victim.read_bytes()[: int(share * victim.stat().st_size)])
    reader = RecordReader(folder)
    assert [each.record_id for each in reader.records()] == ["r0", "r2"]
    assert list(reader.skipped) == [victim.name]
    again = ShardFolder(folder / "records", schema_of(Record))  # and the next server goes on
    again.write([record(3)])
    assert ids(folder) == ["r0", "r2", "r3"]


def test_a_shard_of_something_else_is_skipped(folder: Path, written: ShardFolder) -> None:
    written.write([record(1)])
    pq.write_table(pa.table({"a": [1]}), folder / "records" / "000000000009.0.00000000.parquet")
    reader = RecordReader(folder)
    assert [each.record_id for each in reader.records()] == ["r1"]
    assert list(reader.skipped) == ["000000000009.0.00000000.parquet"]


@pytest.mark.parametrize("value", ["x", 5, float("nan"), b"\xff", [1]])
@pytest.mark.parametrize("kind", ["records", "labels"])
def test_a_column_of_another_kind_costs_its_shard_and_no_other(folder: Path, kind: str, value: Any) -> None:
    ShardFolder(folder / "records", schema_of(Record)).write([record(1)])
    ShardFolder(folder / "labels", schema_of(Label)).write([label("r1", Truth.ATTACK)])
    (path,) = (folder / kind).glob("*.parquet")
    whole = pq.read_table(path)
    for at, name in enumerate(whole.column_names):
        changed = whole.set_column(at, name, pa.array([value]))
        pq.write_table(changed, folder / kind / "000000000009.0.00000000.parquet")
        reader = RecordReader(folder)
        assert "r1" in [each.record_id for each in reader.records(images=True, evidence=True)]
        assert reader.labels()["r1"].truth and "r1" in reader.find("q1")
        assert bool(reader.skipped) == (changed.schema.field(name).type != whole.schema.field(name).type), name


def test_a_bit_that_flipped_is_noticed(folder: Path, written: ShardFolder) -> None:
    written.write([record(1)])
    written.write([record(2)])
    before = list(RecordReader(folder).records())
    victim = files(folder)[0]
    whole = victim.read_bytes()
    for at in range(4, len(whole), 37):
        victim.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        reader = RecordReader(folder)
        assert list(reader.records()) == (before[1:] if reader.skipped else before), at


def test_what_a_shard_replaces_is_a_list_or_it_is_skipped(folder: Path, written: ShardFolder) -> None:
    written.write([record(1)])
    table = pq.read_table(files(folder)[0]).replace_schema_metadata({shards.REPLACES: b"5"})
    pq.write_table(table, folder / "records" / "000000000002.1.00000000.parquet")
    reader = RecordReader(folder)
    assert "r1" in [each.record_id for each in reader.records()] and len(reader.skipped) == 1


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"record_id": ""}, "no record_id"),
        ({"p_value": float("nan")}, "p_value"),
        ({"p_value": 0.0}, "p_value"),
        ({"input_sha256": "z" * 64}, "input_sha256"),
        ({"height": 0}, "size"),
        ({"client": None}, "no client"),
    ],
)
def test_a_malformed_record_is_skipped_and_counted(
    folder: Path, written: ShardFolder, fields: dict[str, Any], fault: str
) -> None:
    rows = pa.Table.from_pylist([record(1), record(2) | fields], schema=pa.schema(list(nullable())))
    pq.write_table(rows, folder / "records" / "000000000001.0.00000000.parquet")
    reader = RecordReader(folder)
    assert [each.record_id for each in reader.records()] == ["r1"]
    assert reader.malformed == {fault: 1}


def nullable() -> Iterator[pa.Field]:
    for field in schema_of(Record):
        yield field.with_nullable(True)


def test_the_latest_label_counts_and_contradictions_are_named(folder: Path, labelled: ShardFolder) -> None:
    labelled.write([label("a", Truth.ATTACK), label("b", Truth.ATTACK), label("c", Truth.TRUE_LABEL, "cat")])
    labelled.write([label("a", Truth.FALSE_ALARM), label("b", Truth.ATTACK), label("c", Truth.ATTACK)])
    reader = RecordReader(folder)
    found = reader.labels()
    assert {name: each.truth for name, each in found.items()} == {"a": "false-alarm", "b": "attack", "c": "attack"}
    assert reader.contradicting == {"a"}
    assert len(list(reader.all_labels())) == 6


def test_the_latest_label_counts_whichever_process_wrote_it(folder: Path, labelled: ShardFolder) -> None:
    reviewer = ShardFolder(folder / "labels", schema_of(Label))
    labelled.write([label("a", Truth.ATTACK)])
    reviewer.write([label("a", Truth.FALSE_ALARM)])
    assert RecordReader(folder).labels()["a"].truth == "false-alarm"
    labelled.write([label("a", Truth.ATTACK)])
    assert RecordReader(folder).labels()["a"].truth == "attack"


def test_merging_keeps_the_order_among_the_labels_of_several_processes(
    folder: Path, labelled: ShardFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TOGETHER", 3)
    reviewer = ShardFolder(folder / "labels", schema_of(Label))
    labelled.write([label("a", Truth.ATTACK)])
    reviewer.write([label("a", Truth.FALSE_ALARM)])
    for number in range(3):
        labelled.write([label(str(number), Truth.ATTACK)])
    assert any(path.name[13] == "1" for path in (folder / "labels").glob("*.parquet")), "nothing was merged"
    found = RecordReader(folder)
    assert found.labels()["a"].truth == "false-alarm"
    assert [each.record_id for each in found.all_labels()] == ["a", "a", "0", "1", "2"]


def test_a_label_of_another_kind_is_skipped_and_counted(folder: Path, labelled: ShardFolder) -> None:
    labelled.write([label("a", Truth.ATTACK) | {"truth": "perhaps"}, label("b", Truth.ATTACK)])
    reader = RecordReader(folder)
    assert list(reader.labels()) == ["b"] and reader.malformed == {"label": 1}


def test_no_folder_is_an_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record_folder"):
        RecordReader(tmp_path / "nowhere")


def test_every_column_is_described_and_none_that_is_gone():
    table = DOCS.read_text(encoding="utf-8").split("| columns |")[1].split("\n\n")[0]
    described = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert sorted(described) == sorted(schema_of(Record).names)

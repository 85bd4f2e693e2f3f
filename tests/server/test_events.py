"""An event for each flagged image, whatever its caller is told; what holds it up, and the images in quarantine."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fake_upstream import labelled
from heatward import cli
from heatward.v1 import detection_pb2 as pb
from sample_requests import encoded, picture, png, raw
from test_guard import answer_of, call, guarding
from test_patches_asked import made_for_patches
from test_query_alerts import probes
from test_tokens import ALICE, bearer

from detector.errors import ConfigError
from server.access import tokens
from server.config import ServerConfig
from server.load import load_config

__all__ = ["guarding"]

CLEAN, ATTACKED = 7, 240
"""The fake detector's p-values of them: 0.965 and 0.005."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def found(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def sample(served: Any, name: str, **labels: str) -> float:
    return served.app.metrics.registry.get_sample_value(f"heatward_{name}", labels) or 0.0


async def counted(served: Any, name: str, **labels: str) -> None:
    for _ in range(1000):
        if sample(served, name, **labels):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} {labels} stays 0")


async def test_a_flagged_image_is_one_ocsf_finding(
    serving, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokens, "CHECK_S", 0.0)
    (tmp_path / "tokens").write_text(f"alice {ALICE} none\n")
    file, began_ms = png(picture(ATTACKED)), time.time() * 1e3
    async with serving(events=path, token_file=tmp_path / "tokens") as served:
        await served.stub.Detect(raw(picture(CLEAN)), **bearer(ALICE))
        await served.stub.Detect(encoded(file, "one"), **bearer(ALICE))
        version = served.app._registry.current.version
    (event,) = found(path)
    required = {
        "activity_id",
        "category_uid",
        "class_uid",
        "type_uid",
        "severity_id",
        "time",
        "metadata",
        "finding_info",
    }
    assert required < event.keys()  # of OCSF 1.6.0
    assert (event["category_uid"], event["class_uid"], event["type_uid"]) == (2, 2004, 200401)
    assert began_ms - 1 <= event["time"] <= time.time() * 1e3 + 1
    assert event["metadata"]["version"] == "1.6.0" and event["metadata"]["product"]["name"] == "heatward"
    assert event["finding_info"]["uid"] == event["metadata"]["uid"] and event["finding_info"]["title"]
    assert event["finding_info"]["analytic"]["version"] == version
    assert [each["technique"]["uid"] for each in event["attacks"]] == ["AML.T0043", "AML.T0015"]
    assert {each["mitigation"]["uid"] for each in event["attacks"]} == {"AML.M0015"}
    (evidence,) = event["evidences"]
    assert evidence["actor"]["user"]["name"] == "alice" and evidence["file"]["name"] == "one"
    assert evidence["file"]["hashes"][0]["value"] == hashlib.sha256(file).hexdigest()
    assert (event["action"], event["unmapped"]["disclosure"]) == ("Observed", "none")
    assert event["unmapped"]["p_value"] == pytest.approx(0.005)


async def test_pixels_have_the_hash_of_their_bytes_and_no_image_is_in_an_event(serving, path: Path):
    pixels = picture(ATTACKED, 30, 20)
    async with serving(events=path) as served:
        await served.stub.Detect(raw(pixels))
    (event,) = found(path)
    assert event["evidences"][0]["file"]["hashes"][0]["value"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert path.stat().st_size < 4096


async def test_no_caller_hides_by_a_rate_of_its_own(serving, path: Path):
    """At p = 0.005 and 0.01; the server's rate is 0.01."""
    async with serving(events=path) as served:
        hidden = await served.stub.Detect(raw(picture(198), "hidden", false_positive_rate=0.006))
        await served.stub.Detect(raw(picture(190), "own", false_positive_rate=0.3))
        await served.stub.Detect(raw(picture(190), "clean"))
    assert not hidden.attacked
    assert [each["evidences"][0]["file"]["name"] for each in found(path)] == ["hidden", "own"]


@pytest.mark.parametrize(
    ("policy", "disclosure", "action", "action_id"),
    [
        ("annotate", "full", "Observed", 3),
        ("reject", "full", "Denied", 2),
        ("replace", "full", "Modified", 4),
        ("reject", "none", "Observed", 3),
    ],
)
async def test_the_action_is_what_the_guard_does(guarding, path: Path, policy, disclosure, action, action_id):
    async with guarding(events=path, guard_policy=policy, disclosure=disclosure) as (served, behind):
        behind.answers["ModelInfer"] = answer_of("label", "INT64", [5], raw=True)
        await asyncio.gather(call(served, labelled(ATTACKED)), return_exceptions=True)
        await counted(served, "images_total", verdict="attacked")
    (event,) = found(path)
    assert (event["action"], event["action_id"]) == (action, action_id)


async def test_an_image_that_was_made_by_a_patch_is_flagged(serving, path: Path, tmp_path: Path):
    """At p = 0.945 of an attack and 0.055 of a patch."""
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from detector.records.reader import RecordReader

    async with serving(made_for_patches(), events=path, quarantine=tmp_path / "kept") as served:
        for asked, rate in ((True, 0.1), (True, 0.05), (False, 0.1)):
            image = raw(picture(14), f"{asked}-{rate}", look_for_patches=asked, false_positive_rate=rate)
            assert not (await served.stub.Detect(image)).attacked
        assert sample(served, "images_total", verdict="patched") == 1
        assert sample(served, "images_total", verdict="clean") == 2
    (event,) = found(path)
    assert event["evidences"][0]["file"]["name"] == "True-0.1"
    assert "patch made its label (p = 0.0549)" in event["message"] and event["action"] == "Observed"
    assert event["unmapped"]["patch_p_value"] == pytest.approx(14 / 255) and event["unmapped"]["p_value"] > 0.9
    (kept,) = RecordReader(tmp_path / "kept").records()
    assert kept.request_id == "True-0.1" and kept.patch_p_value == pytest.approx(14 / 255) and not kept.attacked


async def test_an_alert_of_a_query_sequence_is_an_event_though_the_server_stops_at_once(serving, path: Path):
    async with serving(events=path, events_chain=True, query_alerts=True) as served:
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(image) for image in probes(60)]))
    (event,) = found(path)
    assert (event["class_uid"], event["action"], event["is_alert"]) == (2004, "Observed", True)
    assert event["finding_info"]["title"] == "Query sequence"
    assert event["finding_info"]["analytic"]["type_id"] == 2
    assert event["attacks"][0]["sub_technique"]["uid"] == "AML.T0043.001"
    assert event["evidences"][0]["actor"]["user"]["name"] and event["unmapped"]["suspicious"] == 30
    assert (sample(served, "events_total"), sample(served, "images_total", verdict="attacked")) == (1, 0)
    assert cli.main(["events", "verify", str(path)]) == 0


async def test_events_are_chained_where_that_is_asked_for(serving, path: Path):
    for _ in range(2):
        async with serving(events=path, events_chain=True) as served:
            await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture(ATTACKED))] * 3))
    assert [each["metadata"]["sequence"] for each in found(path)] == [1, 2, 3, 4, 5, 6]
    assert cli.main(["events", "verify", str(path)]) == 0


async def test_nothing_is_written_unless_it_is_asked_for(serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with serving() as served:
        await served.stub.Detect(raw(picture(ATTACKED)))
    assert not list(tmp_path.iterdir())


async def test_a_full_disk_is_counted_and_said_once_and_harms_no_answer(
    serving, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with serving(events=path) as served:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for _ in range(2):
                assert (await served.stub.Detect(raw(picture(ATTACKED)))).attacked
                await asyncio.to_thread(served.app._writers[0].flush)
            assert sample(served, "events_dropped_total", reason="disk_full") == 2
        await served.stub.Detect(raw(picture(ATTACKED), "later"))
        await asyncio.to_thread(served.app._writers[0].flush)
        assert sample(served, "events_total") == 1
    assert [each["evidences"][0]["file"]["name"] for each in found(path)] == ["later"]
    assert len([record for record in caplog.records if "events are dropped" in record.getMessage()]) == 1


async def test_a_folder_that_is_not_there_and_another_server_drop_events(serving, tmp_path: Path, path: Path):
    async with serving(events=tmp_path / "nowhere" / "events") as served:
        assert (await served.stub.Detect(raw(picture(ATTACKED)))).attacked
        await counted(served, "events_dropped_total", reason="unwritable")
    async with serving(events=path) as first, serving(events=path) as second:
        for served in (first, second):
            await served.stub.Detect(raw(picture(ATTACKED)))
            await asyncio.to_thread(served.app._writers[0].flush)
        assert sample(second, "events_dropped_total", reason="locked") == 1
    assert len(found(path)) == 1


@pytest.mark.parametrize("setting", ["events", "quarantine", "record_folder"])
async def test_a_place_that_cannot_be_written_is_said_before_anything_is_flagged(
    serving, tmp_path: Path, setting: str, caplog: pytest.LogCaptureFixture
):
    if setting != "events":
        pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    (tmp_path / "file").touch()
    async with serving(**{setting: tmp_path / "file" / "place"}):
        for _ in range(1000):
            if "will be dropped" in caplog.text:
                break
            await asyncio.sleep(0.01)
    assert "will be dropped" in caplog.text and str(tmp_path / "file") in caplog.text


@pytest.mark.parametrize("kind", ["fifo", "device"])
async def test_what_keeps_no_lines_is_told_at_the_start(
    serving, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
):
    place = Path("/dev/null") if kind == "device" else tmp_path / "fifo"
    if kind == "fifo":
        os.mkfifo(place)
    async with serving(events=place) as served:
        for _ in range(1000):
            if "will be dropped" in caplog.text:
                break
            await asyncio.sleep(0.01)
        assert f"events will be dropped: events: {place} is no regular file" in caplog.text
        assert (await served.stub.Detect(raw(picture(ATTACKED)))).attacked
        await counted(served, "events_dropped_total", reason="unwritable")


async def test_flagged_images_are_kept_in_quarantine_and_no_others(serving, tmp_path: Path):
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from detector.records.reader import RecordReader

    folder, file = tmp_path / "quarantine", png(picture(ATTACKED))
    async with serving(quarantine=folder, quarantine_days=2) as served:
        await served.stub.Detect(raw(picture(CLEAN), "clean"))
        await served.stub.Detect(encoded(file, "attacked"))
        (writer,) = served.app._writers
        assert writer._config.record_max_age_days == 2
    assert [(each.request_id, each.image) for each in RecordReader(folder).records(images=True)] == [("attacked", file)]


async def test_an_image_is_in_quarantine_as_the_rate_judged_that_flagged_it(serving, tmp_path: Path):
    """At p = 0.005; the server's rate is 0.01: whoever reviews it finds it flagged."""
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    from detector.records.reader import RecordReader

    async with serving(quarantine=tmp_path / "kept", record_folder=tmp_path / "records") as served:
        await served.stub.Detect(raw(picture(ATTACKED), "own", false_positive_rate=0.0051))
        await served.stub.Detect(raw(picture(198), "hidden", false_positive_rate=0.0051))
    kept = {
        each.request_id: (each.attacked, each.false_positive_rate) for each in RecordReader(tmp_path / "kept").records()
    }
    assert kept == {"own": (True, 0.01), "hidden": (True, 0.01)}
    judged = {each.request_id: each.attacked for each in RecordReader(tmp_path / "records").records()}
    assert judged == {"own": True, "hidden": False}, "a record says what the caller was told"


async def test_the_quarantine_of_one_server_is_not_the_folder_of_anothers_records(
    serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    async with serving(record_folder=tmp_path) as first, serving(quarantine=tmp_path) as second:
        for served in (first, second):
            await served.stub.Detect(raw(picture(ATTACKED)))
            await asyncio.to_thread(served.app._writers[0].flush)
        await counted(second, "quarantine_dropped_total", reason="locked")
    assert f"uses {tmp_path}; give each server a folder of its own" in caplog.text


def test_the_quarantine_is_not_the_folder_of_records(tmp_path: Path):
    with pytest.raises(ConfigError, match="another folder than record_folder"):
        load_config(["--record-folder", str(tmp_path), "--quarantine", str(tmp_path)])
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="another folder than record_folder"):
        load_config(["--record-folder", str(tmp_path), "--quarantine", str(tmp_path / "link")])
    assert ServerConfig(record_folder=tmp_path, quarantine=tmp_path / "flagged").quarantine_days == 30

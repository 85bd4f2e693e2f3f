"""What is recorded of traffic, that it harms no answer, and the labels that people give."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("pyarrow", reason="the extra `record` is not installed")

import numpy as np
import record_until_killed
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import feedback_pb2, feedback_pb2_grpc
from sample_requests import encoded, picture, png, raw
from served_models import inference_result

from detector.errors import ConfigError
from detector.images import decode
from detector.lock import hold
from detector.records.reader import RecordReader
from detector.records.schema import Record
from server.access import tokens
from server.config import ServerConfig
from server.observers import recorder
from server.observers.metrics import Metrics
from server.observers.recorder import Recorder
from server.observers.recording import open_recorder

FALSE_ALARM, ATTACK = feedback_pb2.TRUTH_FALSE_ALARM, feedback_pb2.TRUTH_ATTACK
TRUE_LABEL = feedback_pb2.TRUTH_TRUE_LABEL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recorded"


def recorded(folder: Path, **columns: bool) -> list[Record]:
    reader = RecordReader(folder)
    found = list(reader.records(**columns))
    assert not reader.skipped and not reader.malformed
    return found


def sample(served: Any, name: str, **labels: str) -> float:
    return served.app.metrics.registry.get_sample_value(f"heatward_{name}", labels) or 0.0


async def feedback(served: Any, **fields: Any) -> feedback_pb2.FeedbackResponse:
    stub = feedback_pb2_grpc.FeedbackServiceStub(served.channel)
    return await stub.Feedback(feedback_pb2.FeedbackRequest(**fields))


async def test_an_image_is_recorded_as_it_was_answered(serving, folder: Path):
    file, pixels = png(picture(3, 20, 30)), picture(4)
    async with serving(record_folder=folder) as served:
        await served.stub.Detect(encoded(file, "one"))
        answer = await served.stub.Detect(raw(pixels, "two"))
    one, two = recorded(folder, images=True, evidence=True)
    assert (one.request_id, one.height, one.width, one.input_bytes) == ("one", 20, 30, len(file))
    assert one.input_sha256 == hashlib.sha256(file).hexdigest()
    assert two.input_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert (two.p_value, two.attack_score, two.attacked) == (answer.p_value, answer.attack_score, answer.attacked)
    assert (two.predicted, two.predicted_name, two.recovered) == (4, "class-4", answer.recovered[0].index)
    assert (two.client, two.model_version) == ("ipv4:127.0.0.1", answer.detector_version)
    assert one.record_id != two.record_id and one.time <= two.time
    assert one.image is None and one.evidence is None, "not without consent"


async def test_images_are_recorded_where_allowed_as_they_came_or_as_png(serving, folder: Path):
    file, pixels = png(picture(3, 20, 30)), picture(4)
    async with serving(record_folder=folder, record_images=True) as served:
        await served.stub.Detect(encoded(file))
        await served.stub.Detect(raw(pixels))
    one, two = recorded(folder, images=True)
    assert one.image == file
    assert two.image is not None and np.array_equal(decode(two.image), pixels)


async def test_images_of_a_batch_have_the_id_of_their_call_and_failed_ones_are_no_records(serving, folder: Path):
    async with serving(record_folder=folder) as served:
        items = [raw(picture(3)), raw(picture(13)), raw(picture(4), "own")]
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=items))
        assert sample(served, "records_total") + len(served.app._recorder._queue) == 2
    first, second = recorded(folder)
    assert first.request_id == first.call_id == second.call_id and second.request_id == "own"


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 8)])
async def test_a_share_is_drawn(serving, folder: Path, share: float, expected: int):
    folder.mkdir()
    async with serving(record_folder=folder, record_share=share) as served:
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture())] * 8))
    assert len(recorded(folder)) == expected


async def test_nothing_is_recorded_unless_it_is_asked_for(serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with serving() as served:
        await served.stub.Detect(raw(picture(), "one"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await feedback(served, id="one", truth=ATTACK)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not list(tmp_path.iterdir())


def test_a_server_without_the_extra_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "server.observers.recorder")
    with pytest.raises(ConfigError, match=r"record_folder = .* needs pyarrow .*\[serve,record\]"):
        open_recorder(ServerConfig(record_folder=folder), Metrics())


# ---- no answer is harmed --------------------------------------------------------------------------------------------


async def dropped(served: Any, reason: str, images: int) -> None:
    for _ in range(1000):
        if sample(served, "records_dropped_total", reason=reason) >= images:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nothing was dropped as {reason}")


async def test_a_full_disk_drops_records_and_counts_them(serving, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with serving(record_folder=folder) as served:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3
            await dropped(served, "disk_full", 1)
        await served.stub.Detect(raw(picture(4)))
    assert [each.predicted for each in recorded(folder)] == [4], "once there is room, it goes on"


async def test_a_folder_that_cannot_be_made_drops_records(serving, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    async with serving(record_folder=tmp_path / "file" / "recorded") as served:
        assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3
        await dropped(served, "unwritable", 1)


async def test_a_folder_that_vanishes_drops_records_and_is_not_made_anew(serving, folder: Path):
    async with serving(record_folder=folder) as served:
        await served.stub.Detect(raw(picture(3)))
        await asyncio.to_thread(served.app._recorder.flush)
        shutil.rmtree(folder)
        assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3
        await dropped(served, "unwritable", 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await feedback(served, id="one", truth=ATTACK)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not folder.exists()


async def test_a_folder_that_another_server_records_into_is_left_to_it(
    serving, folder: Path, caplog: pytest.LogCaptureFixture
):
    with hold(folder, what="record_folder"):
        async with serving(record_folder=folder) as served:
            assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3
            await dropped(served, "locked", 1)
    assert "give each server a folder of its own" in caplog.text
    assert not (folder / "records").exists()


def test_a_full_queue_drops_and_counts(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "MOST", 2)
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    counted: list[tuple[str, int]] = []
    recording = Recorder(ServerConfig(record_folder=folder), lambda _: None, lambda *each: counted.append(each))
    for number in range(5):
        recording.finished(record_until_killed.a_request(number), inference_result())
    assert counted == [("queue_full", 1)] * 3
    recording.close()
    assert [each.request_id for each in recorded(folder)] == ["q0", "q1"], "what had a place is written at the end"


def test_an_image_that_cannot_be_recorded_harms_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    counted: list[tuple[str, int]] = []
    recording = Recorder(ServerConfig(record_folder=folder), lambda _: None, lambda *each: counted.append(each))
    requests = [record_until_killed.a_request(number) for number in range(3)]
    requests[1].source.read = lambda limits: 1 // 0  # type: ignore[assignment,return-value]
    for request in requests:
        recording.finished(request, inference_result())
    recording.close()
    assert [each.request_id for each in recorded(folder)] == ["q0", "q2"]
    assert counted == [("defect", 1)]


def test_a_clock_that_jumps_back_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    now = iter([2e9, 1e9, 3e9])
    recording = Recorder(ServerConfig(record_folder=folder), lambda _: None, lambda *each: None)
    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: next(now))
            recording.finished(record_until_killed.a_request(number), inference_result())
        recording.flush()
    recording.close()
    found = recorded(folder)
    assert [each.request_id for each in found] == ["q0", "q1", "q2"]
    assert [each.time.timestamp() for each in found] == [2e9, 1e9, 3e9]


def test_a_process_that_is_killed_leaves_whole_shards_and_all_that_it_had_written(folder: Path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        command = [sys.executable, record_until_killed.__file__, str(folder)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(70)]  # enough for shards to be merged, too
            process.kill()
            rest = process.stdout.read().split()
        promised = int(rest[-1] if rest else lines[-1])
        found = recorded(folder)
        assert len({each.record_id for each in found}) == len(found) >= promised
        shutil.rmtree(folder / "records")


def test_old_records_are_removed_where_they_weigh_too_much(folder: Path):
    config = ServerConfig(record_folder=folder, record_max_bytes=2**20, record_images=True)
    recording = Recorder(config, lambda _: None, lambda *each: None)
    for number in range(250):  # of about 12 KB each, which does not compress
        recording.finished(record_until_killed.a_request(number), inference_result())
        if number % 10 == 9:
            recording.flush()
    recording.close()
    found = recorded(folder)
    assert found[-1].request_id == "q249" and found[0].request_id != "q0"
    assert sum(path.stat().st_size for path in (folder / "records").iterdir()) <= 2**20


def test_old_records_are_removed_where_nothing_comes_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    config = ServerConfig(record_folder=folder, record_max_age_days=1)
    for _ in range(2):  # the second is a server that was started anew, and gets no image
        recording = Recorder(config, lambda _: None, lambda *each: None)
        if not recorded_files(folder):
            recording.finished(record_until_killed.a_request(0), inference_result())
            recording.flush()
            (shard,) = recorded_files(folder)
            os.utime(shard, (time.time() - 2 * recorder.DAY_S,) * 2)
        else:
            recording.flush()
        recording.close()
    assert not recorded_files(folder)


def test_a_smaller_cap_makes_room_on_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    counted: list[str] = []
    for most in (2**30, 1):
        config = ServerConfig(record_folder=folder).model_copy(update={"record_max_bytes": most})
        recording = Recorder(config, lambda _: None, lambda reason, _: counted.append(reason))
        recording.finished(record_until_killed.a_request(0), inference_result())
        recording.flush()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        recording.close()
    assert counted == ["disk_full"] and not recorded_files(folder)


def test_a_fault_is_in_the_log_once_until_it_is_mended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(recorder, "EVERY_S", 1000.0)
    recording = Recorder(ServerConfig(record_folder=folder), lambda _: None, lambda *each: None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for told in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            for number in range(3):
                recording.finished(record_until_killed.a_request(number), inference_result())
                recording.flush()
        assert caplog.text.count("records are dropped") == told
        recording.finished(record_until_killed.a_request(9), inference_result())
        recording.flush()
    recording.close()


def recorded_files(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("*.parquet"))


# ---- labels ---------------------------------------------------------------------------------------------------------


async def test_the_truth_is_kept_beside_the_record_with_who_said_it(serving, folder: Path):
    async with serving(record_folder=folder) as served:
        await served.stub.Detect(raw(picture(3), "one"))
        first = await feedback(served, id="one", truth=FALSE_ALARM)
        again = await feedback(served, id=first.record_id, truth=FALSE_ALARM)
        other = await feedback(served, id="one", truth=ATTACK)
        shown = await feedback(served, id="one", truth=TRUE_LABEL, true_label="class-7")
        assert [each.contradicts for each in (first, again, other, shown)] == [False, False, True, False]
        assert sample(served, "labels_total", truth="attack", contradicts="yes") == 1
    reader = RecordReader(folder)
    label = reader.labels()[first.record_id]
    assert (label.truth, label.true_label, label.by) == ("true-label", "class-7", "ipv4:127.0.0.1")
    assert len(list(reader.all_labels())) == 4 and reader.contradicting == {first.record_id}


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"id": "never", "truth": ATTACK}, "NOT_FOUND", "no image of this id was recorded"),
        ({"id": "twice", "truth": ATTACK}, "INVALID_ARGUMENT", "2 images were recorded under it: name one record"),
        ({"truth": ATTACK}, "INVALID_ARGUMENT", "id: a request id or a record id"),
        ({"id": "x" * 258, "truth": ATTACK}, "INVALID_ARGUMENT", "of 1 to 257 bytes"),
        ({"id": "one"}, "INVALID_ARGUMENT", "truth: one of TRUTH_FALSE_ALARM"),
        ({"id": "one", "truth": 99}, "INVALID_ARGUMENT", "truth: one of"),
        ({"id": "one", "truth": TRUE_LABEL}, "INVALID_ARGUMENT", "true_label: required"),
        ({"id": "one", "truth": ATTACK, "true_label": "class-1"}, "INVALID_ARGUMENT", "true_label: required for"),
        ({"id": "one", "truth": TRUE_LABEL, "true_label": "klass-7"}, "INVALID_ARGUMENT", "did you mean 'class-7'"),
    ],
)
async def test_a_label_that_makes_no_sense_is_refused(serving, folder: Path, fields, code: str, said: str):
    async with serving(record_folder=folder) as served:
        for name in ("one", "twice", "twice"):
            await served.stub.Detect(raw(picture(3), name))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await feedback(served, **fields)
    assert caught.value.code().name == code and said in caught.value.details()
    assert not list(RecordReader(folder).all_labels())


async def test_a_label_that_cannot_be_written_is_not_taken(serving, folder: Path, monkeypatch: pytest.MonkeyPatch):
    async with serving(record_folder=folder) as served:
        await served.stub.Detect(raw(picture(3), "one"))
        await asyncio.to_thread(served.app._recorder.flush)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await feedback(served, id="one", truth=ATTACK)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and "No space left" in caught.value.details()


async def test_only_those_may_label_whom_the_operator_names(serving, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "CHECK_S", 0.0)
    alice, bob = "alices-Secret-0123456789", "bobs~secret.9876543210=="
    file = folder.parent / "tokens"
    file.write_text(f"alice {alice}\nbob {bob}\n")
    codes = {}
    async with serving(record_folder=folder, token_file=file, record_labellers=("bob",)) as served:
        stub = feedback_pb2_grpc.FeedbackServiceStub(served.channel)
        await served.stub.Detect(raw(picture(3), "one"), metadata=(("authorization", f"Bearer {alice}"),))
        for name, token in {"alice": alice, "bob": bob, "nobody": "x" * 20}.items():
            call = stub.Feedback(
                feedback_pb2.FeedbackRequest(id="one", truth=ATTACK), metadata=(("authorization", f"Bearer {token}"),)
            )
            codes[name] = (await call.code()).name
    assert codes == {"alice": "PERMISSION_DENIED", "bob": "OK", "nobody": "UNAUTHENTICATED"}
    assert [each.by for each in RecordReader(folder).labels().values()] == ["bob"]
    assert [each.client for each in recorded(folder)] == ["alice"]

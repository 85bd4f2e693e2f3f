"""What a busy server has no room for is sent again with fewer images beside it; it fails only where that is no help."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from command import run
from fake_servicer import QUEUE_FULL, FakeServer
from google.rpc import code_pb2, error_details_pb2, status_pb2
from heatward.cli.congestion import CongestionWindow
from heatward.client.messages import verdict
from heatward.client.values import Failure
from heatward.v1 import detection_pb2 as pb

FULL = Failure("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=0.0)
LATE = Failure("DEADLINE_EXCEEDED", "it would be late")
DONE = verdict(pb.Verdict(p_value=0.5))


def window(count: int, most: int) -> tuple[CongestionWindow, list[float]]:
    now = [0.0]
    return CongestionWindow(count, most, 10.0, lambda: now[0]), now


def test_a_refused_image_is_sent_again_before_others_and_with_fewer_beside_it() -> None:
    images, _ = window(9, most=6)
    sent = iter(images)
    assert list(islice(sent, 6)) == [0, 1, 2, 3, 4, 5]
    assert not images.settle(3, FULL)  # five others are ahead of their answers: two may be
    assert not images.settle(4, LATE)
    assert [images.settle(position, DONE) for position in (0, 1, 2)] == [True] * 3
    assert [next(sent), images.settle(5, DONE), next(sent)] == [3, True, 4]
    assert [images.settle(position, DONE) for position in (3, 4)] == [True, True]
    assert list(islice(sent, 2)) == [6, 7]


def test_verdicts_let_more_be_sent_up_to_what_was_asked_for() -> None:
    images, _ = window(99, most=3)
    sent = iter(images)
    images.settle(next(sent), FULL)  # nothing else was ahead: one at a time
    for _ in range(9):
        images.settle(next(sent), DONE)
    for _ in range(3):
        next(sent)
    assert images._open == 3


def test_a_refusal_is_final_once_no_verdict_has_come_for_long_and_so_is_every_other_failure() -> None:
    images, now = window(9, most=9)
    sent = iter(images)
    first = next(sent)
    now[0] = 9.0
    assert not images.settle(first, FULL)
    assert images.settle(next(sent), DONE)
    now[0] = 18.0
    assert not images.settle(next(sent), FULL)
    now[0] = 19.0
    assert images.settle(next(sent), FULL)
    for code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"):  # the second without a time to come back
        assert images.settle(next(sent), Failure(code, "no"))


def test_all_are_answered_before_it_ends_unless_it_is_closed() -> None:
    images, _ = window(1, most=9)
    sent = iter(images)
    assert [next(sent), images.settle(0, FULL), next(sent), images.settle(0, DONE)] == [0, False, 0, True]
    assert list(sent) == []
    images, _ = window(2, most=1)
    sent = iter(images)
    next(sent)
    images.close()
    assert list(sent) == []


def refusing(server: FakeServer, monkeypatch: pytest.MonkeyPatch, status: status_pb2.Status, times: float) -> None:
    answer, asked = server.detector._answer, Counter[bytes]()

    def refuse(request: pb.DetectRequest) -> pb.DetectResult:
        asked[request.image.encoded] += 1
        answered = answer(request)
        return (
            answered
            if asked[request.image.encoded] > times
            else pb.DetectResult(request_id=request.request_id, status=status)
        )

    monkeypatch.setattr(server.detector, "_answer", refuse)


def full(pause_ms: int) -> status_pb2.Status:
    status = status_pb2.Status(code=QUEUE_FULL.code, message=QUEUE_FULL.message)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(pause_ms)
    status.details.add().Pack(retry)
    return status


@pytest.mark.parametrize(
    "status", [full(1), status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="it would be late")]
)
def test_every_image_of_a_folder_has_its_verdict_though_the_server_has_no_room_at_first(
    status: status_pb2.Status, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02d}.png" for number in range(40)]
    for name in names:
        (tmp_path / name).write_bytes(b"image " + name.encode())
    refusing(server, monkeypatch, status, times=2)
    code, out, err = run("detect", str(tmp_path), "--json", "--address", server.address)
    assert (code, err) == (0, b"")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(Path(row["path"]).name, row["attacked"]) for row in rows] == [(name, False) for name in names]
    assert len(server.detector.requests) == 3 * len(names)


def test_an_image_for_which_there_never_is_room_fails(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    refusing(server, monkeypatch, full(100), times=10**6)
    code, out, _ = run("detect", str(tmp_path), "--timeout", "0.3", "--address", server.address)
    assert code == 2
    assert b"a.png  failed    RESOURCE_EXHAUSTED: the queue is full" in out
    assert len(server.detector.requests) > 1

"""The ledger of the server's benchmarks: whatever goes wrong with an answer, it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from heatward.v1 import detection_pb2 as pb

from benchmarks.serving.ledger import Answer, Ledger, item

FINE = frozenset({"OK"})


async def answers(*found: Answer, error: BaseException | None = None) -> AsyncIterator[Answer]:
    for each in found:
        yield each
    if error is not None:
        raise error


def failure(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="why")


def test_lost_doubled_and_wrong_answers_are_counted() -> None:
    ledger = Ledger()
    fine, doubled, wrong, lost = (ledger.expect("steady", FINE) for _ in range(4))
    for request_id in (fine, doubled, doubled):
        ledger.note(request_id, "OK")
    ledger.note(wrong, "INTERNAL")
    assert (ledger.asked, ledger.lost, ledger.doubled, ledger.wrong) == (4, 1, 1, 1)
    assert ledger.by_code == {"OK": 2, "INTERNAL": 1}
    assert ledger.violations["steady: an image got INTERNAL"] == 1
    ledger.note(lost, "OK")
    assert ledger.lost == 0


async def test_a_call_that_ends_well_has_answered_each_image_with_its_own_label() -> None:
    ledger = Ledger()
    await ledger.follow("batch", {"a": 1, "b": 2}, answers(("a", "OK", 1), ("b", "OK", 2)), FINE, 1.0)
    assert not ledger.violations
    await ledger.follow("batch", {"c": 3, "d": 4}, answers(("c", "OK", 9)), FINE, 1.0)
    assert ledger.violations == {"batch: label 9 in place of 3": 1, "batch: an image got LOST": 1}
    assert (ledger.lost, ledger.calls) == (1, 0)


async def test_a_status_answers_the_images_that_had_no_answer_yet() -> None:
    ledger = Ledger()
    late = failure(grpc.StatusCode.DEADLINE_EXCEEDED)
    await ledger.follow("stream", {"a": 1, "b": 2}, answers(("a", "OK", 1), error=late), FINE | {late.code().name}, 1.0)
    assert not ledger.violations
    assert ledger.codes == {("stream", "OK"): 1, ("stream", "DEADLINE_EXCEEDED"): 1}
    await ledger.follow("stream", {"c": 3}, answers(error=failure(grpc.StatusCode.INTERNAL)), FINE, 1.0)
    assert ledger.violations == {"stream: INTERNAL: why": 1, "stream: an image got INTERNAL": 1}


async def test_a_stream_that_grpc_cancels_is_over_unless_we_cancelled_it() -> None:
    ledger = Ledger()
    await ledger.follow("cancel", {"a": 1}, answers(error=asyncio.CancelledError()), FINE | {"CANCELLED"}, 1.0)
    await ledger.follow("stream", {"b": 1}, answers(error=asyncio.CancelledError()), FINE | {"OVER"}, 1.0)
    assert not ledger.violations and ledger.by_code == {"CANCELLED": 1, "OVER": 1}


async def test_an_answer_to_nothing_that_was_asked_is_a_violation() -> None:
    ledger = Ledger()
    await ledger.follow("unary", {"a": 1}, answers(("a", "OK", 1), ("a", "OK", 1), ("z", "OK", 1)), FINE, 1.0)
    assert ledger.doubled == 2 and sum(ledger.violations.values()) == 2


def test_an_item_is_its_code_or_its_label() -> None:
    failed = pb.DetectResult(request_id="a")
    failed.status.code = 3
    assert item(failed) == ("a", "INVALID_ARGUMENT", -1)
    assert item(pb.DetectResult(request_id="b", verdict=pb.Verdict(predicted=pb.Label(index=7)))) == ("b", "OK", 7)

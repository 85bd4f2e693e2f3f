"""Effort, over gRPC: which tier was asked for, which one came, and who had to wait for it."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from fake_detector import CURSED_AGAIN, FakeDetector
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw, thorough
from test_lifecycle import scrape
from test_service import settle

from detector.errors import NonFiniteLogitsError

FAST, THOROUGH = pb.EFFORT_FAST, pb.EFFORT_THOROUGH


async def hold_a_second_look(served) -> grpc.aio.UnaryUnaryCall:
    """Lets the engine begin a second look and holds it there."""
    served.detector.second_gate.clear()
    served.detector.looking.clear()
    call = served.stub.Detect(thorough(150, "held"))
    await settle(served.detector.looking.is_set)
    return call


async def test_only_an_undecided_image_that_asked_is_looked_at_again(serving):
    async with serving(FakeDetector(thorough=True), metrics_port=0) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        again = await served.stub.Detect(thorough(150))
        decided = await served.stub.Detect(thorough(7))
        unasked = await served.stub.Detect(thorough(150, effort=FAST))
        unsaid = await served.stub.Detect(raw(picture(150)))
        text = await scrape(served.app.metrics_address)
    assert list(info.efforts) == [FAST, THOROUGH]
    assert (again.effort, again.p_value, again.attacked) == (THOROUGH, 0.005, True)
    assert (decided.effort, decided.p_value) == (THOROUGH, 193 / 200)
    assert [verdict.effort for verdict in (unasked, unsaid)] == [FAST, FAST]
    assert not unasked.attacked
    assert served.detector.second_looks == [[150]]
    assert served.detector.threads == {"heatward-engine-0"}
    assert {
        'heatward_verdicts_total{asked="thorough",got="thorough"} 2.0',
        'heatward_verdicts_total{asked="fast",got="fast"} 2.0',
    } <= set(text.splitlines())


@pytest.mark.parametrize("effort, expected", [("fast", FAST), ("thorough", THOROUGH)])
async def test_a_request_that_says_nothing_gets_the_servers_setting(serving, effort, expected):
    async with serving(FakeDetector(thorough=True), effort=effort) as served:
        assert (await served.stub.Detect(raw(picture(151)))).effort == expected


@pytest.mark.parametrize("capable, queue", [(False, 64), (True, 0)])
async def test_where_there_is_no_second_look_the_answer_is_fast(serving, capable, queue):
    async with serving(FakeDetector(thorough=capable), thorough_queue=queue, metrics_port=0) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        assert [(await served.stub.Detect(thorough(label))).effort for label in (7, 150)] == [FAST, FAST]
        text = await scrape(served.app.metrics_address)
    assert list(info.efforts) == [FAST]
    assert 'heatward_verdicts_total{asked="thorough",got="fast"} 2.0' in text.splitlines()
    assert served.detector.second_looks == []


async def test_every_item_of_a_batch_and_a_stream_has_its_own_effort(serving):
    requests = [thorough(152, "a"), raw(picture(153), "b"), thorough(154, "c")]
    async with serving(FakeDetector(thorough=True)) as served:
        batch = (await served.stub.DetectBatch(pb.DetectBatchRequest(requests=requests))).results
        stream = {result.request_id: result async for result in served.stub.DetectStream(iter(requests))}
    assert [result.verdict.effort for result in batch] == [THOROUGH, FAST, THOROUGH]
    assert [stream[name].verdict.effort for name in "abc"] == [THOROUGH, FAST, THOROUGH]


async def test_a_deadline_too_short_for_a_second_look_is_answered_fast(serving):
    detector = FakeDetector(thorough=True)
    async with serving(detector) as served:
        (second_looks,) = served.app.engines._engines[0]._second_looks.values()
        second_looks._group_s = dict.fromkeys(range(1, 5), 60.0)  # as if it took a minute
        unary = await served.stub.Detect(thorough(150), timeout=30)
        items = iter([thorough(151, "short", timeout_ms=30_000), thorough(152, "long", timeout_ms=600_000)])
        stream = {result.request_id: result async for result in served.stub.DetectStream(items)}
    assert unary.effort == FAST
    assert {name: result.verdict.effort for name, result in stream.items()} == {"short": FAST, "long": THOROUGH}
    assert detector.second_looks == [[152]]


async def test_the_timeout_of_one_image_ends_that_image_alone(serving):
    async with serving() as served:
        served.detector.gate.clear()
        call = served.stub.DetectStream()
        await call.write(raw(picture(1), "first"))
        await settle(served.detector.entered.is_set)
        late = raw(picture(2), "late")
        late.timeout_ms = 50
        await call.write(late)
        assert (await call.read()).status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        served.detector.gate.set()
        assert (await call.read()).verdict.predicted.index == 1


async def test_a_flood_of_thorough_work_delays_fast_work_by_one_group(serving):
    async with serving(FakeDetector(thorough=True), max_batch=4, thorough_batch=2) as served:
        held = await hold_a_second_look(served)
        flood = [served.stub.Detect(thorough(151 + i)) for i in range(8)]
        await settle(lambda: served.app.batcher.queued == 8)
        fast = [served.stub.Detect(raw(picture(i))) for i in range(8)]
        await settle(lambda: served.app.batcher.queued == 16)
        served.detector.second_gate.set()
        efforts = [(await call).effort for call in (held, *flood, *fast)]
    assert efforts == [THOROUGH] * 9 + [FAST] * 8
    # the group that was under way, then all that waited for it, and only then the next groups
    assert served.detector.calls == ["fast", "thorough", *["fast"] * 4, *["thorough"] * 4]


async def test_one_more_than_may_wait_is_answered_fast(serving):
    async with serving(FakeDetector(thorough=True), thorough_queue=2, max_batch=8) as served:
        served.detector.gate.clear()
        first = served.stub.Detect(raw(picture(1)))
        await settle(served.detector.entered.is_set)
        calls = [served.stub.Detect(thorough(150 + i)) for i in range(3)]
        await settle(lambda: served.app.batcher.queued == 3)
        served.detector.gate.set()
        await first
        assert sorted([(await call).effort for call in calls]) == [FAST, THOROUGH, THOROUGH]


async def test_cancelled_work_is_not_looked_at_again(serving):
    async with serving(FakeDetector(thorough=True), thorough_batch=1) as served:
        served.detector.gate.clear()
        first = served.stub.Detect(raw(picture(1)))
        await settle(served.detector.entered.is_set)
        calls = [served.stub.Detect(thorough(150 + i)) for i in range(3)]
        await settle(lambda: served.app.batcher.queued == 3)
        served.detector.second_gate.clear()
        served.detector.gate.set()
        await first
        await settle(served.detector.looking.is_set)  # at one of them; two wait
        gone = next(call for i, call in enumerate(calls) if [150 + i] not in served.detector.second_looks)
        gone.cancel()
        await settle(lambda: served.app.calls.in_flight == 2)
        served.detector.second_gate.set()
        assert [(await call).effort for call in calls if call is not gone] == [THOROUGH, THOROUGH]
        assert (await served.stub.Detect(raw(picture(2)))).effort == FAST
    assert len(served.detector.second_looks) == 2


@pytest.mark.parametrize("error", [ValueError("defect"), NonFiniteLogitsError("NaN"), None])
async def test_a_failing_second_look_leaves_the_fast_answer(serving, error, caplog: pytest.LogCaptureFixture):
    detector = FakeDetector(thorough=True)
    async with serving(detector) as served:
        honest = detector.reconsider

        def broken(images, verdicts):
            honest(images, verdicts)
            if error is None:
                return []  # too few
            raise error

        detector.reconsider = broken
        verdict = await served.stub.Detect(thorough(150))
        detector.reconsider = honest
        cursed = await served.stub.Detect(thorough(CURSED_AGAIN))
        healthy = await served.stub.Detect(thorough(150))
    assert (verdict.effort, verdict.predicted.index) == (FAST, 150)
    assert [cursed.effort, healthy.effort] == [FAST, THOROUGH]
    assert "a second look failed" in caplog.text


async def test_an_engine_that_dies_in_a_second_look_still_gives_the_fast_answers(serving):
    detector = FakeDetector(thorough=True)
    async with serving(detector) as served:

        def die(images, verdicts):
            raise SystemExit("the engine is told to die")

        detector.reconsider = die
        assert (await served.stub.Detect(thorough(150))).effort == FAST
        assert isinstance(await served.app.engines.stopped, SystemExit)


async def test_drain_answers_what_waits_for_a_second_look(serving):
    async with serving(FakeDetector(thorough=True), thorough_batch=2) as served:
        held = await hold_a_second_look(served)
        calls = [served.stub.Detect(thorough(151 + i)) for i in range(5)]
        await settle(lambda: served.app.batcher.queued == 5)
        drain = asyncio.create_task(served.app.drain(60))
        served.detector.second_gate.set()
        assert [(await call).effort for call in (held, *calls)] == [THOROUGH] * 6
        assert await drain


async def test_a_drain_without_time_answers_fast(serving):
    async with serving(FakeDetector(thorough=True), thorough_batch=1) as served:
        held = await hold_a_second_look(served)
        calls = [served.stub.Detect(thorough(151 + i)) for i in range(3)]
        await settle(lambda: served.app.batcher.queued == 3)
        served.app.engines.hurry(0.0)
        served.detector.second_gate.set()
        assert [(await call).effort for call in (held, *calls)] == [THOROUGH, FAST, FAST, FAST]

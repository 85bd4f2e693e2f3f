"""How much a caller is told, by its token or by the server's setting, in every protocol."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_detector import FakeDetector
from fake_upstream import labelled
from heatward.inference import grpc_service_pb2 as kserve
from heatward.v1 import admin_pb2, admin_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from heatward.v1 import detection_pb2 as pb
from sample_requests import fields_at_fault, picture, raw, status_of
from source_tree import PACKAGES, tree
from test_guard import answer_of, call, counted, failure, guarding, info_of, parameters
from test_inference import asking, pixels, stub_of, values
from test_patches_asked import made_for_patches
from test_reliable import promising
from test_tokens import ALICE, BOB, bearer

from detector.errors import ConfigError
from detector.scoring.tail import TailEstimate
from server.access import tokens
from server.access.disclosure import Disclosure
from server.access.tokens import Tokens

__all__ = ["guarding"]

CAROL = "carols-secret-0123456789"
CLEAN, ATTACKED = 7, 240
"""The fake detector's p-values of them: 0.965 and 0.005."""
CLASSIFIERS = {"request_id", "predicted", "top", "detector_version"}
"""Fields of a verdict that no detector has a part in."""
DECIDED = {"attacked", "false_positive_rate"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Alice is told all, Bob the verdict, Carol nothing."""
    monkeypatch.setattr(tokens, "CHECK_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE}\nbob {BOB} 1000 verdict\ncarol {CAROL} none\n")
    return path


def telling() -> FakeDetector:
    """It has something in every field."""
    detector = promising()
    detector.tail, detector.group = TailEstimate(0.001, 0.0005, 0.002), "class-1"
    return detector


def told(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


async def verdicts(served: Any, token: str) -> list[pb.Verdict]:
    """An attacked image by each road, with a heatmap asked for."""
    options = {"heatmap": pb.HEATMAP_FORMAT_PNG_OVERLAY, "max_error_rate": 0.5}
    one = await served.stub.Detect(raw(picture(ATTACKED), "a", **options), **bearer(token))
    batch = pb.DetectBatchRequest(requests=[raw(picture(ATTACKED), "b", heatmap=pb.HEATMAP_FORMAT_FLOAT)])
    (two,) = (await served.stub.DetectBatch(batch, **bearer(token))).results
    stream = served.stub.DetectStream(iter([raw(picture(ATTACKED), "c", **options)]), **bearer(token))
    (three,) = [result async for result in stream]
    return [one, two.verdict, three.verdict]


async def test_each_token_is_told_its_level_by_every_road(serving, file: Path):
    async with serving(telling(), token_file=file) as served:
        full, verdict, nothing = [await verdicts(served, token) for token in (ALICE, BOB, CAROL)]
    everything = {"p_value", "attack_score", "recovered", "corrected", "timings", "error_rate", "tail_estimate"}
    assert all(told(each) >= CLASSIFIERS | DECIDED | everything | {"heatmap", "calibration_group"} for each in full)
    assert all(told(each) == CLASSIFIERS | DECIDED and each.attacked for each in verdict)
    assert all(told(each) == CLASSIFIERS for each in nothing)


async def test_told_nothing_an_attacked_answer_is_that_of_a_clean_one(serving, file: Path):
    """But for the classifier's own label, which says nothing of the verdict."""
    async with serving(token_file=file) as served:
        clean, attacked = [
            await served.stub.Detect(raw(picture(label)), **bearer(CAROL)) for label in (CLEAN, ATTACKED)
        ]
    for each in (clean, attacked):
        assert {label.index for label in each.top} == {each.predicted.index}
        each.ClearField("predicted")
        each.ClearField("top")
    assert clean == attacked


async def test_a_rate_of_the_callers_choice_does_not_give_the_p_value_away(serving, file: Path):
    """At p = 0.015: told the verdict alone, 0.02 counts as 0.01; told nothing, the server's rate decides."""
    async with serving(token_file=file) as served:

        async def answer(token: str, rate: float) -> pb.Verdict:
            return await served.stub.Detect(raw(picture(197), false_positive_rate=rate), **bearer(token))

        full = await answer(ALICE, 0.02)
        lower, higher = await answer(BOB, 0.02), await answer(BOB, 0.3)
        least = await answer(BOB, 0.007)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer(BOB, 0.001)
        assert await answer(CAROL, 0.3) == await answer(CAROL, 0.001)
        sample = served.app.metrics.registry.get_sample_value
        attacked = sample("heatward_images_total", {"verdict": "attacked"})
    assert (full.attacked, full.false_positive_rate, full.p_value) == (True, 0.02, pytest.approx(0.015))
    assert (lower.attacked, lower.false_positive_rate) == (False, 0.01)
    assert (higher.attacked, higher.false_positive_rate) == (True, 0.1)
    assert least.false_positive_rate == pytest.approx(0.005)
    assert fields_at_fault(status_of(caught.value)) == ["options.false_positive_rate"]
    assert attacked == 2, "of Carol's none at 0.3"


@pytest.mark.parametrize("made", [True, False], ids=["a bundle made for patches", "another bundle"])
async def test_who_would_not_be_told_of_patches_has_nobody_look_and_no_error(serving, file: Path, made: bool):
    detector = made_for_patches() if made else FakeDetector()
    async with serving(detector, token_file=file) as served:
        version = served.app._registry.current
        asked: list[Any] = []
        start = served.app._pipeline.start

        def noted(places: Any, read: Any, *more: Any, **named: Any) -> Any:
            def read_noting(place: int) -> Any:
                asked.append(read(place))
                return asked[-1]

            return start(places, read_noting, *more, **named)

        served.app._pipeline.start = noted
        for token in (BOB, CAROL):
            image = raw(picture(ATTACKED), look_for_patches=True)
            assert told(await served.stub.Detect(image, **bearer(token))) <= CLASSIFIERS | DECIDED
    assert [each.model for each in asked] == [version, version]


async def test_the_setting_counts_without_a_level_or_a_token(serving, file: Path):
    async with serving(disclosure="none") as served:
        assert told(await served.stub.Detect(raw(picture(ATTACKED), "a"))) == CLASSIFIERS
    file.write_text(f"alice {ALICE}\nbob {BOB} full\n")
    async with serving(token_file=file, disclosure="verdict") as served:
        unnamed, full = [
            await served.stub.Detect(raw(picture(ATTACKED), "a"), **bearer(token)) for token in (ALICE, BOB)
        ]
    assert told(unnamed) == CLASSIFIERS | DECIDED
    assert "p_value" in told(full)


async def test_what_nobody_is_told_goes_to_the_log_and_the_metrics(
    serving, file: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "heatward")
    async with serving(token_file=file) as served:
        for label in (CLEAN, ATTACKED):
            await served.stub.Detect(raw(picture(label), f"id-{label}"), **bearer(CAROL))
        await served.stub.Detect(raw(picture(ATTACKED)), **bearer(ALICE))
        sample = served.app.metrics.registry.get_sample_value
        assert sample("heatward_images_total", {"verdict": "attacked"}) == 2
    (line,) = [vars(record) for record in caplog.records if record.name == "heatward.verdicts"]
    assert (line["request_id"], line["client"], line["p_value"]) == ("id-240", "carol", pytest.approx(0.005))


async def test_kserve_leaves_out_what_is_not_told_asked_for_or_not(serving, file: Path):
    async with serving(telling(), token_file=file) as served:
        stub = stub_of(served)

        async def outputs(token: str, *names: str) -> dict[str, Any]:
            answer = await stub.ModelInfer(pixels(CLEAN, ATTACKED, outputs=asking(*names)), **bearer(token))
            assert len(answer.outputs) == len(answer.raw_output_contents)
            return {output.name: values(answer, output.name) for output in answer.outputs}

        assert "p_value" in await outputs(ALICE)
        verdict, nothing = await outputs(BOB), await outputs(CAROL)
        asked = await outputs(BOB, "heatmap", "p_value", "attacked", "tail_estimate", "reliable")
        assert await outputs(CAROL, "attacked", "heatmap") == {}
        statistics = [await _statistics(stub, token) for token in (ALICE, BOB, CAROL)]
    assert verdict.keys() == {"attacked", "label", "probability", "label_name"}
    assert verdict["attacked"] == [False, True]
    assert nothing.keys() == {"label", "probability", "label_name"} and nothing["label"] == [CLEAN, ATTACKED]
    assert asked.keys() == {"attacked"}
    assert [each.inference_count > 0 for each in statistics] == [True, False, False]


async def _statistics(stub: Any, token: str) -> Any:
    request = kserve.ModelStatisticsRequest(name="heatward")
    (found,) = (await stub.ModelStatistics(request, **bearer(token))).model_stats
    return found


async def test_what_is_loaded_is_told_likewise(serving, file: Path):
    async with serving(telling(), token_file=file) as served:
        full, verdict, nothing = [
            await served.stub.GetDetector(pb.GetDetectorRequest(), **bearer(token)) for token in (ALICE, BOB, CAROL)
        ]
    usual = {"name", "version", "server_version", "classifier", "limits"}
    rates = {"default_false_positive_rate", "smallest_false_positive_rate"}
    assert told(full) > usual | rates | {"calibration_size", "operating_points", "heatmap_formats"}
    assert told(verdict) == usual | rates
    assert told(nothing) == usual


async def test_whoever_is_not_told_all_neither_administers_nor_looks_for_records(serving, file: Path, tmp_path: Path):
    pytest.importorskip("pyarrow", reason="the extra `record` is not installed")
    async with serving(token_file=file, admin=True, record_folder=tmp_path / "records") as served:
        admin = admin_pb2_grpc.AdminServiceStub(served.channel)
        feedback = feedback_pb2_grpc.FeedbackServiceStub(served.channel)
        request = feedback_pb2.FeedbackRequest(id="one", truth=feedback_pb2.TRUTH_ATTACK)
        assert (await admin.ListVersions(admin_pb2.ListVersionsRequest(), **bearer(ALICE))).versions
        for token in (BOB, CAROL):
            for method, message in (
                (admin.ListVersions, admin_pb2.ListVersionsRequest()),
                (admin.Reload, admin_pb2.ReloadRequest()),
            ):
                error = await failure(method(message, **bearer(token)))
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        codes = [(await failure(feedback.Feedback(request, **bearer(token)))).code() for token in (ALICE, BOB, CAROL)]
    assert codes == [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED]


async def test_the_guard_annotates_as_much_as_the_caller_may_know(guarding, file: Path):
    async with guarding(token_file=file) as (served, behind):
        full, verdict, nothing = [
            await call(served, labelled(ATTACKED), metadata=bearer(token)["metadata"]) for token in (ALICE, BOB, CAROL)
        ]
    assert {"p_value", "recovered_label"} < parameters(full).keys()
    assert parameters(verdict) == {"verdict": "attacked"}
    assert nothing == behind.answers["ModelInfer"], "to the byte"


async def test_the_guard_tells_upstreams_counts_to_whoever_is_told_all(guarding, file: Path):
    """They count what a detector asks, too: one that asks upstream asks again about images that look attacked."""
    counts = b"counts of cats"
    async with guarding(token_file=file) as (served, behind):
        behind.answers["ModelStatistics"] = counts
        request = kserve.ModelStatisticsRequest(name="cats")
        found = [
            await call(served, request, "ModelStatistics", metadata=bearer(token)["metadata"])
            for token in (ALICE, BOB, CAROL)
        ]
    assert found == [counts, b"", b""]


async def test_the_guard_rejects_without_a_number_and_lets_pass_where_nothing_is_told(guarding, file: Path):
    async with guarding(token_file=file, guard_policy="reject") as (served, behind):
        full, verdict = [
            info_of(await failure(call(served, labelled(CLEAN, ATTACKED), metadata=bearer(token)["metadata"])))
            for token in (ALICE, BOB)
        ]
        passed = await call(served, labelled(ATTACKED), metadata=bearer(CAROL)["metadata"])
        for _ in range(500):
            if counted(served, "observe", "attacked"):
                break
            await asyncio.sleep(0.01)
        assert counted(served, "observe", "attacked") == 1 and counted(served, "reject", "attacked") == 2
    assert full.metadata.keys() == {"index", "p_value", "recovered_index"}
    assert dict(verdict.metadata) == {"index": "1"}
    assert passed == behind.answers["ModelInfer"]


async def test_where_nothing_is_told_an_answer_waits_for_no_verdict(guarding):
    """So its time tells nothing, and a verdict that cannot be had is no reason to refuse."""
    async with guarding(disclosure="none", guard_policy="reject") as (served, behind):
        served.detector.gate.clear()
        assert await call(served, labelled(ATTACKED), timeout=10) == behind.answers["ModelInfer"]
        served.detector.gate.set()
        assert await call(served, labelled(13)) == behind.answers["ModelInfer"]  # the fake's detection fails


async def test_a_short_deadline_keeps_no_image_from_being_judged(guarding, monkeypatch: pytest.MonkeyPatch):
    deadlines: list[float | None] = []
    async with guarding(disclosure="none") as (served, _):
        original = served.app._pipeline.results

        async def results(count, read, context):
            deadlines.append(context.deadline_s)
            return await original(count, read, context)

        monkeypatch.setattr(served.app._pipeline, "results", results)
        await call(served, labelled(ATTACKED), timeout=10)
        for _ in range(500):
            if counted(served, "observe", "attacked"):
                break
            await asyncio.sleep(0.01)
    assert deadlines == [None]


@pytest.mark.parametrize("policy", ["reject", "replace"])
async def test_a_policy_that_acts_on_nobody_is_warned_of(guarding, policy: str, caplog: pytest.LogCaptureFixture):
    async with guarding(disclosure="none", guard_policy=policy):
        pass
    assert [record for record in caplog.records if "acts on no caller" in record.getMessage()]


async def test_replace_puts_the_corrected_label_in_though_it_is_not_named(guarding, file: Path):
    async with guarding(token_file=file, guard_policy="replace") as (served, behind):
        behind.answers["ModelInfer"] = answer_of("label", "INT64", [5], raw=True)
        answer = await call(served, labelled(ATTACKED), metadata=bearer(BOB)["metadata"])
    assert kserve.ModelInferResponse.FromString(answer).raw_output_contents[0] == (1).to_bytes(8, "little")
    assert parameters(answer) == {"verdict": "attacked"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"bob {BOB} verdct", "line 2: images_per_second .* full, verdict, none; did you mean 'verdict'"),
        (f"bob {BOB} 5 verdct", "line 2: expected .* full, verdict, none; did you mean 'verdict'"),
        (f"bob {BOB} 5 nothing", "line 2: expected `name token .* full, verdict, none"),
        (f"bob {BOB} none 5", "line 2: expected `name token"),
        (f"bob {BOB} NONE", "line 2: images_per_second .* full, verdict, none"),
        (f"bob {BOB} 5 none more", "line 2: expected `name token .* 5 words"),
    ],
)
def test_an_unknown_level_is_refused_by_its_line(tmp_path: Path, line: str, message: str):
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE} 5 none\n{line}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        Tokens(path)
    assert not {"verdct", "nothing", "NONE"} & set(str(caught.value).replace("'", " ").split())


async def test_an_unknown_level_in_a_new_file_leaves_the_old_tokens_as_they_were(
    serving, file: Path, caplog: pytest.LogCaptureFixture
):
    async with serving(token_file=file) as served:
        file.write_text(f"carol {CAROL} all\n")
        assert told(await served.stub.Detect(raw(picture(ATTACKED), "a"), **bearer(CAROL))) == CLASSIFIERS
        file.write_text(f"carol {CAROL} verdict\n")
        assert told(await served.stub.Detect(raw(picture(ATTACKED), "a"), **bearer(CAROL))) == CLASSIFIERS | DECIDED
    assert [record for record in caplog.records if "the old ones stay" in record.getMessage()]


def test_levels_and_rates_stand_beside_each_other(file: Path):
    known = Tokens(file)
    found = {token: known.find(token) for token in (ALICE, BOB, CAROL)}
    assert [each and each.disclosure for each in found.values()] == [None, Disclosure.VERDICT, Disclosure.NONE]
    assert [each and each.quota.images_per_s for each in found.values()] == [float("inf"), 1000, float("inf")]


def test_protocols_write_from_answers_alone() -> None:
    """What reads a verdict itself might tell it to whoever must not know."""
    allowed = {"guard/findings.py", "kserve/outputs.py", "detection/answers.py"}  # they ask `disclosed` first
    folder = PACKAGES["server"] / "protocols"
    for path in folder.rglob("*.py"):
        if path.relative_to(folder).as_posix() not in allowed:
            reads = [
                node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr == "verdict"
            ]
            assert not reads, path


async def test_what_was_told_to_nobody_is_judged_before_the_server_ends(guarding, tmp_path: Path):
    """The call is answered, and with it drained; its images still have their events."""
    path = tmp_path / "events.jsonl"
    async with guarding(disclosure="none", events=path, in_flight_per_call=2) as (served, _):
        served.detector.gate.clear()
        await call(served, labelled(*[ATTACKED] * 6), timeout=10)
        await asyncio.to_thread(served.detector.entered.wait, 10)
        asyncio.get_running_loop().call_later(0.5, served.detector.gate.set)
        assert await served.app.drain(10)
    assert len(path.read_text().splitlines()) == 6

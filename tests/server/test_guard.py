from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from fake_detector import CURSED
from fake_upstream import SERVICE, labelled, tensor, upstream
from google.rpc import error_details_pb2
from heatward.inference import grpc_service_pb2 as kserve
from heatward.v1 import detection_pb2 as pb
from sample_requests import encoded, picture, png, status_of
from served_models import inference_result

from detector.errors import ConfigError
from detector.images import ImageLimits
from server.errors import ServiceError
from server.load import load_config
from server.protocols.guard.findings import Finding, corrected
from server.protocols.guard.images import images_of
from server.protocols.kserve.tensors import DTYPES, pack

CLEAN, ATTACKED = 7, 240  # the fake detector's p-values of them: 0.965 and 0.005; it recovers class 1
UNKNOWN_FIELD = b"\xba\x3e\x05hello"  # number 999, of a newer version of the protocol


@pytest.fixture
def guarding(serving):
    """A server that guards model `cats` of a fake upstream: (served, upstream)."""

    @asynccontextmanager
    async def start(**settings: Any):
        async with (
            upstream() as behind,
            serving(**{"upstream": behind.address, "upstream_model": "cats"} | settings) as served,
        ):
            yield served, behind

    return start


def call(served, request: bytes | Any, method: str = "ModelInfer", **options: Any):
    """A call with bytes in and out."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return served.channel.unary_unary(SERVICE + method)(data, **options)


def parameters(answer: bytes) -> dict[str, Any]:
    """Ours, without their prefix."""
    found = kserve.ModelInferResponse.FromString(answer).parameters
    return {
        name.removeprefix("heatward_"): getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in found.items()
        if name.startswith("heatward_")
    }


async def failure(pending) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pending
    return caught.value


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    return info


def counted(served, policy: str, outcome: str) -> float | None:
    labels = {"policy": policy, "outcome": outcome}
    return served.app.metrics.registry.get_sample_value("heatward_guard_total", labels)


# ---- annotate -------------------------------------------------------------------------------------------------------


async def test_the_answer_is_upstreams_with_the_verdict_added(guarding):
    request = labelled(ATTACKED).SerializeToString() + UNKNOWN_FIELD
    async with guarding() as (served, behind):
        behind.answers["ModelInfer"] += UNKNOWN_FIELD
        attacked = await call(served, request)
        clean = await call(served, labelled(CLEAN))
        assert behind.requests[0] == request
        assert attacked.startswith(behind.answers["ModelInfer"])
        assert counted(served, "annotate", "attacked") == counted(served, "annotate", "clean") == 1
    assert kserve.ModelInferResponse.FromString(attacked).model_name == "cats"
    assert parameters(attacked) == {
        "verdict": "attacked",
        "p_value": pytest.approx(0.005),
        "recovered_label": "class-1",
        "recovered_index": 1,
        "corrected_label": "class-1",
        "corrected_index": 1,
    }
    assert parameters(clean) == {"verdict": "clean", "p_value": pytest.approx(0.965)}


async def test_upstream_cannot_speak_for_the_guard(guarding):
    forged = kserve.ModelInferResponse()
    forged.parameters["heatward_verdict"].string_param = "clean"
    forged.parameters["theirs"].string_param = "kept"
    async with guarding() as (served, behind):
        behind.answers["ModelInfer"] = forged.SerializeToString()
        answer = await call(served, labelled(ATTACKED))
    assert parameters(answer)["verdict"] == "attacked"
    assert kserve.ModelInferResponse.FromString(answer).parameters["theirs"].string_param == "kept"


async def test_many_images_have_lists_of_json(guarding):
    async with guarding() as (served, _):
        found = parameters(await call(served, labelled(CLEAN, ATTACKED, CURSED)))
    assert json.loads(found["verdict"]) == ["clean", "attacked", "unknown"]
    assert json.loads(found["p_value"]) == [pytest.approx(0.965), pytest.approx(0.005), None]
    assert json.loads(found["recovered_index"]) == [None, 1, None]
    assert json.loads(found["recovered_label"]) == [None, "class-1", None]
    reasons = json.loads(found["reason"])
    assert reasons[:2] == [None, None] and "detector failed" in reasons[2]


async def test_upstream_and_the_detector_work_at_the_same_time(guarding):
    async with guarding() as (served, behind):
        served.detector.gate.clear()

        async def once_the_detector_works(context):
            assert await asyncio.to_thread(served.detector.entered.wait, 10)
            served.detector.gate.set()

        behind.before = once_the_detector_works
        assert parameters(await call(served, labelled(CLEAN)))["verdict"] == "clean"


# ---- what the images may look like ----------------------------------------------------------------------------------

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
UNIT = np.full((1, 8, 8, 3), 180 / 255, np.float32)
NORMALISED = {"upstream_mean": tuple(MEAN.tolist()), "upstream_std": tuple(STD.tolist())}


def typed() -> kserve.ModelInferRequest:
    request = tensor(UNIT[0], "FP32")
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(UNIT.ravel().tolist())
    return request


def second_input() -> kserve.ModelInferRequest:
    request = tensor(np.zeros(1, np.float32), "FP32", "temperature")
    request.MergeFrom(labelled(180))
    return request


def files(*items: bytes) -> kserve.ModelInferRequest:
    request = tensor(np.zeros(len(items)), "BYTES")
    request.raw_input_contents[0] = pack(items)
    return request


READABLE: dict[str, tuple[kserve.ModelInferRequest, dict[str, Any]]] = {
    "8 bits, channels last": (labelled(180), {}),
    "8 bits, channels first": (tensor(np.full((1, 3, 8, 8), 180, np.uint8)), {}),
    "grey": (tensor(np.full((1, 1, 8, 8), 180, np.uint8)), {}),
    "three pixels high": (tensor(np.full((1, 3, 8, 3), 180, np.uint8)), {"upstream_layout": "nhwc"}),
    "files": (files(png(picture(180))), {}),
    "FP32 in [0, 1]": (tensor(UNIT, "FP32"), {}),
    "FP32, typed": (typed(), {}),
    "FP16": (tensor(UNIT.astype(np.float16), "FP16"), {}),
    "BF16": (tensor((UNIT.view("<u4") >> 16).astype("<u2"), "BF16"), {}),
    "normalised": (tensor(((UNIT - MEAN) / STD).transpose(0, 3, 1, 2), "FP32"), NORMALISED),
    "in [-1, 1]": (tensor(2 * UNIT - 1, "FP32"), {"upstream_mean": (0.5,), "upstream_std": (0.5,)}),
    "in [0, 255]": (tensor(255 * UNIT, "FP32"), {"upstream_scale": 255}),
    "the named of two": (second_input(), {"upstream_input": "pixels"}),
}


@pytest.mark.parametrize("name", READABLE)
async def test_images_are_read_as_clients_prepare_them(guarding, name):
    request, settings = READABLE[name]
    async with guarding(**settings) as (served, _):
        assert parameters(await call(served, request))["verdict"] == "clean"
        (seen,) = [label for batch in served.detector.batches for label in batch]
    assert seen == 180 or (name == "BF16" and seen == 179)  # 8 bits of a number are a little less than those of a pixel


def elsewhere() -> kserve.ModelInferRequest:
    request = labelled(CLEAN)
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = "gpu0"
    return request


def twice() -> kserve.ModelInferRequest:
    """Two tensors of one name: which one upstream takes is not known."""
    request = labelled(CLEAN)
    request.MergeFrom(labelled(ATTACKED))
    return request


UNREADABLE: dict[str, tuple[kserve.ModelInferRequest, dict[str, Any], str]] = {
    "no input": (kserve.ModelInferRequest(model_name="cats"), {}, "inputs: one"),
    "two inputs": (second_input(), {}, "set to that which holds images"),
    "two of the same name": (twice(), {"upstream_input": "pixels"}, "'pixels'"),
    "a datatype that is no image": (tensor(np.zeros((1, 8, 8, 3), "<i8"), "INT64"), {}, "INT64"),
    "elsewhere": (elsewhere(), {}, "shared_memory_region"),
    "no channels": (tensor(np.zeros((1, 8, 8, 4), np.uint8)), {}, "[1, 8, 8, 4]"),
    "channels at both ends": (tensor(np.zeros((1, 3, 8, 3), np.uint8)), {}, "upstream_layout is auto"),
    "out of range": (tensor(2 * UNIT, "FP32"), {}, "between 0 and 255"),
    "not a number": (tensor(np.nan * UNIT, "FP32"), {}, "nan"),
    "infinite": (tensor(np.inf * UNIT, "FP32"), NORMALISED, "inf"),
    "grey of coloured means": (tensor(UNIT[..., :1], "FP32"), NORMALISED, "3 channels"),
    "too many": (labelled(1, 2, 3), {"images_per_call": 2}, "at most 2 images"),
    "a name that fits no header": (tensor(np.zeros(1), "BOOL", "n" * 50_000), {}, "nnn"),
    "not a file": (files(b"GIF89a"), {}, "images[0]."),
    "the detector fails": (labelled(CURSED), {}, "detector failed"),
}
del UNREADABLE["no input"][0].inputs[:]


@pytest.mark.parametrize("name", UNREADABLE)
async def test_without_a_verdict_the_guard_fails_open_or_closed(guarding, name):
    request, settings, reason = UNREADABLE[name]
    async with guarding(guard_failure="open", **settings) as (served, behind):
        found = parameters(await call(served, request))
        assert found.pop("verdict") == "unknown"
        assert reason in found.pop("reason") and not found
        assert counted(served, "annotate", "failed_open") == 1
    async with guarding(guard_failure="closed", **settings) as (served, behind):
        error = await failure(call(served, request))
        assert behind.calls == ["ModelInfer"]
        assert counted(served, "annotate", "failed_closed") == 1
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason in error.details()
    assert info_of(error).reason == "NOT_JUDGED"


async def test_by_default_only_annotating_fails_open(guarding):
    for policy, code in (("annotate", grpc.StatusCode.OK), ("reject", grpc.StatusCode.UNAVAILABLE)):
        async with guarding(guard_policy=policy) as (served, _):
            assert await call(served, labelled(CURSED)).code() is code


# ---- reject ---------------------------------------------------------------------------------------------------------


async def test_reject_says_which_images_and_why(guarding):
    async with guarding(guard_policy="reject") as (served, _):
        error = await failure(call(served, labelled(CLEAN, ATTACKED, ATTACKED + 1)))
        assert parameters(await call(served, labelled(CLEAN)))["verdict"] == "clean"
        assert counted(served, "reject", "attacked") == 1
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = info_of(error)
    assert (info.reason, info.domain) == ("ADVERSARIAL_INPUT", "heatward")
    assert info.metadata == {"index": "1,2", "p_value": "0.005,0.005", "recovered_index": "1,1"}


async def test_a_rejection_of_many_images_still_fits_a_header(guarding):
    async with guarding(guard_policy="reject", queue_items=1000, in_flight_per_call=1000) as (served, _):
        error = await failure(call(served, labelled(*[ATTACKED] * 900)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "900 of 900" in error.details()
    assert len(info_of(error).metadata["index"].split(",")) == 32


async def test_an_attack_is_rejected_even_beside_images_without_a_verdict(guarding):
    async with guarding(guard_policy="reject", guard_failure="open") as (served, _):
        error = await failure(call(served, labelled(CURSED, ATTACKED)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


# ---- replace --------------------------------------------------------------------------------------------------------


def answer_of(name: str, datatype: str, array: Any, *, raw: bool, field: str = "") -> bytes:
    response = kserve.ModelInferResponse(model_name="cats")
    values = np.asarray(array)
    out = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
    if raw:
        response.raw_output_contents.append(values.tobytes())
    else:
        getattr(out.contents, field).extend(values.ravel().tolist())
    return response.SerializeToString() + UNKNOWN_FIELD


SCORES = np.array([[0.7, 0.1, 0.2], [0.1, 0.2, 0.7]], np.float32)
SWAPPED = np.array([[0.7, 0.1, 0.2], [0.1, 0.7, 0.2]], np.float32)


@pytest.mark.parametrize("raw", [True, False])
async def test_replace_writes_the_corrected_label(guarding, raw):
    async with guarding(guard_policy="replace") as (served, behind):
        behind.answers["ModelInfer"] = answer_of(
            "label", "INT64", np.array([[5], [6]]), raw=raw, field="int64_contents"
        )
        labels = await call(served, labelled(CLEAN, ATTACKED))
        behind.answers["ModelInfer"] = answer_of("scores", "FP32", SCORES, raw=raw, field="fp32_contents")
        scores = await call(served, labelled(CLEAN, ATTACKED))
        untouched = await call(served, labelled(CLEAN, CLEAN))
        assert untouched.startswith(behind.answers["ModelInfer"])
    for answer, expected, field in ((labels, [5, 1], "int64_contents"), (scores, SWAPPED, "fp32_contents")):
        assert UNKNOWN_FIELD in answer
        response = kserve.ModelInferResponse.FromString(answer)
        values = np.asarray(expected)
        if raw:
            assert response.raw_output_contents[0] == values.tobytes()
        else:
            assert list(getattr(response.outputs[0].contents, field)) == values.ravel().tolist()
        assert json.loads(parameters(answer)["verdict"]) == ["clean", "attacked"]


IRREPLACEABLE = {
    "no such output": (answer_of("label", "INT64", [5], raw=True), {"upstream_output": "scores"}, "'scores'"),
    "one score": (answer_of("p", "FP32", np.array([[0.5]], np.float32), raw=True), {}, "neither labels nor scores"),
    "no numbers": (answer_of("names", "BYTES", [1], raw=True), {}, "BYTES"),
    "half a number": (answer_of("label", "INT64", np.zeros(3, np.uint8), raw=True), {}, "0.375 elements"),
    "two labels": (answer_of("label", "INT64", np.zeros(2, "<i8"), raw=True), {}, "2 elements for 1 images"),
    "not an answer": (b"\xff", {}, "a defect"),
}


@pytest.mark.parametrize("name", IRREPLACEABLE)
async def test_a_label_that_cannot_be_replaced_is_a_failure(guarding, name):
    answer, settings, reason = IRREPLACEABLE[name]
    async with guarding(guard_policy="replace", **settings) as (served, behind):
        behind.answers["ModelInfer"] = answer
        error = await failure(call(served, labelled(ATTACKED)))
        assert counted(served, "replace", "failed_closed") == 1
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason in error.details()


@pytest.mark.parametrize(("datatype", "values"), [("INT8", [5]), ("FP32", [[0.5, 0.4, 0.1]])])
def test_a_class_that_upstream_does_not_have_is_never_written(datatype, values):
    answer = answer_of("out", datatype, np.array(values, DTYPES[datatype]), raw=True)
    finding = Finding(inference_result(0.001, corrected=128))
    with pytest.raises(ServiceError, match="no class 128"):
        corrected(answer, [finding], None)


def test_replace_leaves_an_answer_that_a_likelier_false_alarm_confirms():
    answer = answer_of("out", "INT64", np.array([5]), raw=True)
    finding = Finding(inference_result(0.001, label=3, recovered=(1,), corrected=3))
    assert kserve.ModelInferResponse.FromString(corrected(answer, [finding], None)).raw_output_contents[0] == (
        np.array([5]).tobytes()
    )
    assert finding.recovered == 1 and finding.corrected == 3


async def test_failing_open_still_tells_of_the_attack(guarding):
    answer = answer_of("scores", "FP32", np.array([[0.7]], np.float32), raw=True)
    async with guarding(guard_policy="replace", guard_failure="open") as (served, behind):
        behind.answers["ModelInfer"] = answer
        found = parameters(await call(served, labelled(ATTACKED)))
    assert found["verdict"] == "attacked"
    assert "neither labels nor scores" in found["reason"]


# ---- time -----------------------------------------------------------------------------------------------------------


async def test_a_late_verdict_does_not_make_the_answer_late(guarding):
    async with guarding() as (served, behind):
        served.detector.gate.clear()
        # below a second gRPC sends whole milliseconds, above it rounds up to ten
        found = parameters(await call(served, labelled(CLEAN), timeout=0.98))
        assert found["verdict"] == "unknown" and "deadline" in found["reason"]
        assert behind.time_left_s is not None and 0 < behind.time_left_s <= 1


async def test_the_answer_waits_no_longer_than_it_may(guarding):
    async with guarding(guard_timeout_ms=0) as (served, _):
        served.detector.gate.clear()
        found = parameters(await call(served, labelled(CLEAN)))
        assert found["verdict"] == "unknown" and "guard_timeout_ms" in found["reason"]


async def test_a_deadline_that_upstream_misses_is_the_callers(guarding):
    async with guarding() as (served, behind):
        behind.before = lambda context: asyncio.Event().wait()
        error = await failure(call(served, labelled(CLEAN), timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(behind.cancelled.wait(), 10)


async def test_a_cancelled_call_is_cancelled_upstream_and_in_the_queue(guarding):
    async with guarding() as (served, behind):
        served.detector.gate.clear()
        behind.before = lambda context: asyncio.Event().wait()
        calls = [call(served, labelled(CLEAN)) for _ in range(2)]
        await behind.entered.wait()
        assert await asyncio.to_thread(served.detector.entered.wait, 10)
        for each in calls:
            each.cancel()
        await asyncio.wait_for(behind.cancelled.wait(), 10)
        served.detector.gate.set()
        while served.app.batcher.pending or served.app.rpcs.in_flight:
            await asyncio.sleep(0)


# ---- what passes ----------------------------------------------------------------------------------------------------


async def test_metadata_passes_both_ways(guarding):
    sent = (("tenant-id", "7"), ("trace-bin", b"\x00\xff"), ("authorization", "Bearer secret"))

    async def answer_with_metadata(context):
        await context.send_initial_metadata((("served-by", "gpu-3"),))
        context.set_trailing_metadata((("cost-bin", b"\x01"),))

    for hand_on in (False, True):
        async with guarding(upstream_pass_authorization=hand_on) as (served, behind):
            behind.before = answer_with_metadata
            pending = call(served, labelled(CLEAN), metadata=sent)
            await pending
            assert (behind.metadata["tenant-id"], behind.metadata["trace-bin"]) == ("7", b"\x00\xff")
            assert ("authorization" in behind.metadata) is hand_on
            assert (await pending.initial_metadata())["served-by"] == "gpu-3"
            assert (await pending.trailing_metadata())["cost-bin"] == b"\x01"


async def test_upstreams_errors_pass_as_they_came(guarding):
    async def refuse(context):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "warming up", (("retry-pushback", "5"),))

    async with guarding(guard_policy="reject") as (served, behind):
        behind.before = refuse
        for request in (labelled(ATTACKED), kserve.ModelInferRequest(model_name="dogs")):
            error = await failure(call(served, request))
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "warming up")
            assert error.trailing_metadata()["retry-pushback"] == "5"
        assert counted(served, "reject", "upstream_error") == 1


async def test_upstream_that_is_down_is_named(serving, guarding):
    async with upstream() as gone:
        pass
    async with serving(upstream=gone.address, upstream_model="cats") as served:
        error = await failure(call(served, labelled(CLEAN)))
        ready = await call(served, b"", "ServerReady")
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert gone.address in error.details()
    assert not kserve.ServerReadyResponse.FromString(ready).ready


async def test_ready_where_both_are_and_alive_alone(serving, guarding):
    async with guarding() as (served, behind):
        for answer in (True, False):
            behind.answers["ServerReady"] = kserve.ServerReadyResponse(ready=answer).SerializeToString()
            ready = await call(served, b"", "ServerReady")
            assert kserve.ServerReadyResponse.FromString(ready).ready is answer
        live = await call(served, b"", "ServerLive")
        assert kserve.ServerLiveResponse.FromString(live).live
        assert "ServerLive" not in behind.calls


async def test_other_calls_pass_unjudged(guarding):
    dogs = labelled(ATTACKED)
    dogs.model_name = "dogs"
    named = kserve.ModelReadyRequest(name="cats").SerializeToString() + UNKNOWN_FIELD
    passing = [
        ("ModelInfer", dogs.SerializeToString()),
        *((method, named) for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")),
        ("ServerMetadata", b""),
        ("RepositoryModelLoad", b"\xff not even protobuf"),
    ]
    async with guarding(guard_policy="reject") as (served, behind):
        for method, request in passing:
            behind.answers[method] = b"answer of " + method.encode()
            assert await call(served, request, method) == behind.answers[method]
        assert list(zip(behind.calls, behind.requests, strict=True)) == passing
        assert served.detector.batches == []


async def test_a_method_that_nobody_knows_is_no_way_past_the_guard(guarding):
    async with guarding(guard_policy="reject") as (served, behind):
        error = await failure(call(served, labelled(ATTACKED), "ModelInferFaster"))
        assert behind.calls == []
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_our_own_model_stays_at_hand(guarding):
    own = tensor(np.full((1, 8, 8, 3), ATTACKED, np.uint8), name="image")
    own.model_name = "heatward"
    async with guarding() as (served, behind):
        answer = kserve.ModelInferResponse.FromString(await call(served, own))
        verdict = await served.stub.Detect(encoded(png(picture(ATTACKED))))
        ready = await call(served, kserve.ModelReadyRequest(name="heatward"), "ModelReady")
        assert behind.calls == []
    assert "attacked" in [output.name for output in answer.outputs]
    assert isinstance(verdict, pb.Verdict) and verdict.attacked
    assert kserve.ModelReadyResponse.FromString(ready).ready


async def test_a_guarded_model_of_our_name_is_guarded_nonetheless(guarding):
    request = labelled(ATTACKED)
    request.model_name = "heatward"
    async with guarding(upstream_model="heatward", guard_policy="reject") as (served, behind):
        error = await failure(call(served, request))
        assert behind.calls == ["ModelInfer"]
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_cannot_be_read_is_not_passed_on(guarding):
    async with guarding() as (served, behind):
        error = await failure(call(served, b"\xff\xff"))
        assert behind.calls == []
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_are_refused_unless_they_are_let_pass(guarding):
    async def messages():
        for message in (b"one", b"\xfftwo"):
            yield message

    async with guarding() as (served, _):
        error = await failure(served.channel.stream_stream(SERVICE + "ModelStreamInfer")().read())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "guard_streams" in error.details()
    assert info_of(error).reason == "NOT_GUARDED"
    async with guarding(guard_streams="pass") as (served, _):
        stream = served.channel.stream_stream(SERVICE + "ModelStreamInfer")(messages())
        assert [message async for message in stream] == [b"one", b"\xfftwo"]


async def test_upstream_is_reached_past_a_proxy(serving, monkeypatch: pytest.MonkeyPatch):
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with (
        upstream() as behind,
        serving(upstream=behind.address, upstream_model="cats") as served,
    ):
        behind.answers["ServerReady"] = kserve.ServerReadyResponse(ready=True).SerializeToString()
        async with grpc.aio.insecure_channel(served.app.address, [("grpc.enable_http_proxy", 0)]) as channel:
            ready = await channel.unary_unary(f"{SERVICE}ServerReady")(b"")
        assert kserve.ServerReadyResponse.FromString(ready).ready


async def test_tls_to_upstream(serving, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    async with (
        upstream(credentials) as behind,
        serving(upstream=behind.address, upstream_model="cats", upstream_ca=tmp_path / "ca.pem") as served,
    ):
        assert parameters(await call(served, labelled(CLEAN)))["verdict"] == "clean"


# ---- long names -----------------------------------------------------------------------------------------------------


async def test_an_error_of_upstream_that_repeats_a_long_name_stays_that_error(guarding):
    async def refuse(context: grpc.aio.ServicerContext) -> None:
        await context.abort(
            grpc.StatusCode.NOT_FOUND, "unknown model " + "x" * 200_000, (("long", "y" * 100_000), ("short", "z"))
        )

    async with guarding() as (served, behind):
        behind.before = refuse
        for request, method in (
            (labelled(CLEAN), "ModelInfer"),
            (kserve.ModelMetadataRequest(name="dogs"), "ModelMetadata"),
        ):
            error = await failure(call(served, request, method))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details().startswith("unknown model xxx") and len(error.details()) < 2000
            assert ("short", "z") in tuple(error.trailing_metadata())


@pytest.mark.parametrize("field", ["name", "datatype", "shape", "inputs"])
async def test_why_an_input_could_not_be_read_is_told_shortly(guarding, field: str):
    request = labelled(CLEAN)
    if field == "shape":
        request.inputs[0].shape[:] = [1] * 50_000
    elif field == "inputs":
        for number in range(5000):
            request.inputs.add(name=f"{number}" * 100)
    else:
        setattr(request.inputs[0], field, "\U0001f600" * 300_000)
    settings = {"upstream_input": "pixels"} if field == "name" else {}
    async with guarding(**settings) as (served, _):
        answer = parameters(await call(served, request))
        error = await failure(call(served, b"\x32\x00" * 200_000))
    assert answer["verdict"] == "unknown" and 20 < len(answer["reason"]) <= 400
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "parts" in error.details()


async def test_typed_pixels_are_read_in_pieces_and_are_the_same(guarding):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 3), dtype=np.uint8)  # more than one piece
    typed = tensor(pixels)
    typed.inputs[0].contents.uint_contents.extend(pixels.ravel().tolist())
    whole = images_of(tensor(pixels), load_config([]))
    del typed.raw_input_contents[:]
    pieces = images_of(typed, load_config([]))
    for place in range(2):
        read = [images.at(place).decode(ImageLimits()) for images in (pieces, whole)]
        assert np.array_equal(read[0], read[1]) and np.array_equal(read[0], pixels[place])


# ---- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_checked_and_read_from_the_command_line():
    with pytest.raises(ConfigError, match="upstream_model"):
        load_config(["--upstream", "triton:8001"])
    with pytest.raises(ConfigError, match="upstream_std"):
        load_config(["--upstream-std", "0.5,0"])
    config = load_config(["--upstream", "triton:8001", "--upstream-model", "cats", "--upstream-mean", "0.5,0.4,0.3"])
    assert config.upstream_mean == (0.5, 0.4, 0.3)

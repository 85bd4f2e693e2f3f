"""Who is let in, how often, and that no token is ever told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw

from detector.errors import ConfigError
from server.access import tokens
from server.access.tokens import Quota, Tokens
from server.errors import QuotaError
from server.inference.context import RequestContext
from server.logs import JsonFormatter
from server.transport.status import to_status

ALICE, BOB = "alices-Secret-0123456789", "bobs~secret.9876543210=="


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tokens, "CHECK_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\nalice {ALICE}  # no limit\nbob {BOB} 2.5\n")
    return path


def bearer(token: str, scheme: str = "Bearer") -> dict[str, tuple[tuple[str, str], ...]]:
    return {"metadata": (("authorization", f"{scheme} {token}"),)}


async def code(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_service_but_health_asks_for_a_token(serving, file: Path):
    async with serving(token_file=file) as served:
        for metadata, why in ({}, "a token is required"), (bearer(ALICE[:-1]), "unknown token"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Detect(raw(picture()), **metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert why in caught.value.details() and "Bearer TOKEN" in caught.value.details()
        denied = grpc.StatusCode.UNAUTHENTICATED
        # Streams are refused before they have sent a message: grpc.aio may lose the status while one is on its way.
        assert await served.stub.DetectStream().code() is denied
        assert await code(served.stub.GetDetector(pb.GetDetectorRequest())) is denied
        assert await code(served.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"")) is denied
        reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        assert await reflection.ServerReflectionInfo().code() is denied
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        assert [answer async for answer in reflection.ServerReflectionInfo(iter([ask]), **bearer(ALICE))]
        health = health_pb2_grpc.HealthStub(served.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        counted = served.app.metrics.registry.get_sample_value(
            "heatward_requests_total", {"method": "Detect", "code": "UNAUTHENTICATED"}
        )
    assert counted == 2


@pytest.mark.parametrize(
    ("metadata", "fine"),
    [
        (bearer(BOB), True),
        (bearer(BOB, "bearer"), True),
        (bearer(BOB, "Basic"), False),
        (bearer(""), False),
        (bearer("bob"), False),
        ({"metadata": bearer(BOB)["metadata"] * 2}, False),
        ({"metadata": (("authorization", BOB),)}, False),
    ],
)
async def test_only_one_bearer_token_lets_in(serving, file: Path, metadata, fine: bool):
    async with serving(token_file=file) as served:
        came = await code(served.stub.Detect(raw(picture()), **metadata))
    assert came is (grpc.StatusCode.OK if fine else grpc.StatusCode.UNAUTHENTICATED)


async def test_a_caller_over_its_quota_is_told_when_to_come_back_and_others_are_answered(serving, file: Path):
    file.write_text(f"alice {ALICE}\nbob {BOB} 0.01\n")
    async with serving(token_file=file) as served:
        assert await code(served.stub.Detect(raw(picture()), **bearer(BOB))) is grpc.StatusCode.OK
        batch = pb.DetectBatchRequest(requests=[raw(picture())] * 2)
        results = (await served.stub.DetectBatch(batch, **bearer(BOB))).results
        assert [each.status.code for each in results] == [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture()), timeout=5, **bearer(BOB))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.trailing_metadata()["grpc-retry-pushback-ms"] == "-1"  # a retry in time cannot help
        assert await code(served.stub.Detect(raw(picture()), **bearer(ALICE))) is grpc.StatusCode.OK


async def test_a_stream_that_is_open_is_held_to_the_file_as_it_is_now(serving, file: Path):
    async with serving(token_file=file) as served:
        call = served.stub.DetectStream(**bearer(ALICE))

        async def status(request_id: str) -> int:
            await call.write(raw(picture(), request_id))
            result = await call.read()
            assert result.request_id == request_id
            return result.status.code

        assert await status("a") == 0
        file.write_text(f"alice {ALICE} 0.01\nbob {BOB}\n")
        assert [await status(each) for each in "bc"] == [0, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]]
        file.write_text(f"bob {BOB}\n")
        assert await status("d") == grpc.StatusCode.UNAUTHENTICATED.value[0]
        file.write_text(f"alice {ALICE}\n")
        assert await status("e") == 0


async def test_calls_carry_their_callers_name_and_quota(serving, file: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[RequestContext] = []
    async with serving(token_file=file) as served:
        original = served.app._pipeline.result

        async def result(read, context):
            calls.append(context)
            return await original(read, context)

        monkeypatch.setattr(served.app._pipeline, "result", result)
        for token in (ALICE, BOB, BOB):
            await served.stub.Detect(raw(picture()), **bearer(token))
    assert [call.client for call in calls] == ["alice", "bob", "bob"]
    assert calls[0].quota.images_per_s == float("inf")
    assert calls[1].quota is calls[2].quota
    assert calls[1].quota.images_per_s == 2.5


async def test_without_a_token_file_the_client_is_its_address(serving, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "heatward")
    async with serving() as served:
        await served.stub.Detect(raw(picture()))
    assert [vars(record)["client"] for record in caplog.records if record.message == "call"] == ["ipv4:127.0.0.1"]


async def test_no_token_reaches_the_log(serving, file: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with serving(token_file=file) as served:
        assert await code(served.stub.Detect(raw(picture()), **bearer(ALICE))) is grpc.StatusCode.OK
        assert await code(served.stub.Detect(raw(picture()), **bearer(ALICE + "x"))) is not grpc.StatusCode.OK
        file.write_text(f"carol {ALICE}\ndave {ALICE}\n")
        assert await code(served.stub.Detect(raw(picture()), **bearer(BOB))) is grpc.StatusCode.OK
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any(json.loads(line).get("client") == "alice" for line in lines)
    assert any("the same token as in line 1" in line for line in lines)
    parts = {token[at : at + 6] for token in (ALICE, BOB) for at in range(len(token) - 5)}
    assert not [line for line in lines if any(part in line for part in parts)]


async def test_a_changed_file_counts_from_the_next_call(serving, file: Path, caplog: pytest.LogCaptureFixture):
    async with serving(token_file=file) as served:

        async def fine(token: str) -> bool:
            return await code(served.stub.Detect(raw(picture()), **bearer(token))) is grpc.StatusCode.OK

        assert await fine(ALICE)
        file.write_text("carol carols-secret-0123456789")
        assert (await fine("carols-secret-0123456789"), await fine(ALICE)) == (True, False)
        for broken in ("carol short", "", None):
            file.unlink() if broken is None else file.write_text(broken)
            caplog.clear()
            for _ in range(3):
                assert await fine("carols-secret-0123456789")
            faults = [record for record in caplog.records if record.name == "heatward.files"]
            assert len(faults) == 1 and str(file) in faults[0].getMessage()


def test_a_byte_order_mark_belongs_to_no_name(file: Path):
    file.write_text(f"alice {ALICE}", encoding="utf-8-sig")
    caller = Tokens(file).find(ALICE)
    assert caller is not None and caller.name == "alice"


def test_swapped_columns_are_refused_without_showing_a_token(file: Path):
    file.write_text(f"{ALICE} production-pipeline\n{BOB} production-pipeline\n")
    with pytest.raises(ConfigError) as caught:
        Tokens(file)
    assert ALICE not in str(caught.value) and BOB not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no token"),
        ("# alice\n", "holds no token"),
        ("alice", "line 1: expected `name token"),
        (f"alice {ALICE}\nbob {BOB} 1 2", "line 2: expected `name token"),
        ("alice fifteen-letters", "line 1: a token has at least 16"),
        ("alice ümläute-ümläute-ümläute", "line 1: a token has at least 16"),
        (f"alice {ALICE} fast", "line 1: images_per_second"),
        (f"alice {ALICE} 0", "line 1: images_per_second"),
        (f"alice {ALICE} nan", "line 1: images_per_second"),
        (f"alice {ALICE} inf", "line 1: images_per_second"),
        (f"alice {ALICE}\nbob {ALICE}", "line 2: the same token as in line 1"),
    ],
)
def test_a_wrong_file_is_named_by_line_and_never_quoted(tmp_path: Path, content: str, message: str):
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Tokens(path)
    assert str(path) in str(caught.value)
    assert ALICE not in str(caught.value) and "fifteen" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"token_file: cannot read .*nowhere"):
        Tokens(tmp_path / "nowhere")


def test_a_quota_allows_two_seconds_at_once_and_says_when_to_come_back():
    now_s = 100.0
    quota = Quota(4.0, clock=lambda: now_s)
    for _ in range(8):
        quota.take()
    with pytest.raises(QuotaError, match="4 images a second") as caught:
        quota.take()
    assert caught.value.retry_after_s == pytest.approx(0.25)
    now_s += 0.25
    quota.take()
    now_s += 3600
    for _ in range(8):
        quota.take()
    with pytest.raises(QuotaError) as caught:
        quota.take()
    retry = error_details_pb2.RetryInfo()
    status = to_status(caught.value, "id")
    assert status.details[0].Unpack(retry) and retry.retry_delay.ToMilliseconds() == 250


def test_a_slow_quota_allows_one_image():
    now_s = 0.0
    quota = Quota(0.1, clock=lambda: now_s)
    quota.take()
    with pytest.raises(QuotaError) as caught:
        quota.take()
    assert caught.value.retry_after_s == pytest.approx(10)


def test_a_reload_does_not_refill_a_quota(file: Path):
    known = Tokens(file)
    before = known.find(BOB)
    file.write_text(f"bob {BOB} 2.5\nbob bobs-next-secret-0123456789 2.5\n")
    after, next_one = known.find(BOB), known.find("bobs-next-secret-0123456789")
    assert known.find(ALICE) is None
    assert before and after and next_one
    assert before.quota is after.quota is next_one.quota


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_a_byte_order_mark_is_no_part_of_the_first_name(serving, file: Path, encoding: str):
    file.write_text(f"alice {ALICE}\r\n", encoding=encoding)
    caller = Tokens(file).find(ALICE)
    assert caller and caller.name == "alice"
    async with serving(token_file=file) as served:
        file.write_bytes(f"bob {BOB}\r\n".encode(encoding) + b"\n" * (encoding != "utf-16"))  # read again, too
        assert await code(served.stub.Detect(raw(picture()), **bearer(BOB))) is grpc.StatusCode.OK


def test_a_byte_order_mark_in_the_middle_of_joined_files_is_no_part_of_a_name(file: Path):
    file.write_bytes(f"alice {ALICE}\n".encode("utf-8-sig") + f"bob {BOB}\n".encode("utf-8-sig"))
    caller = Tokens(file).find(BOB)
    assert caller and caller.name == "bob"


def test_damaged_utf_16_is_named(file: Path):
    file.write_bytes(b"\xff\xfea")
    with pytest.raises(ConfigError, match=r"token_file: .*tokens is damaged UTF-16: save it as UTF-8"):
        Tokens(file)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"token_file: cannot read .*: Is a directory"):
        Tokens(tmp_path)


async def test_a_setting_that_names_nobody_is_warned_of_and_no_token_is_told(
    serving, file: Path, caplog: pytest.LogCaptureFixture
):
    async with serving(token_file=file, query_exempt=("alice", "alcie", BOB), record_labellers=("bob",)):
        pass
    (warned,) = [each for each in caplog.records if "names tokens that no line" in each.getMessage()]
    assert warned.getMessage().startswith("query_exempt")
    assert warned.__dict__["names"] == ["alcie", "a token, by the looks of it"]
    caplog.clear()
    async with serving(query_exempt=("alice", "ipv4:127.0.0.1")):
        pass
    (warned,) = [each for each in caplog.records if "names tokens that nobody has" in each.getMessage()]
    assert warned.__dict__["names"] == ["alice"]


@pytest.mark.parametrize("given", [ALICE, f"alice {ALICE}", f"./{ALICE}", f"no-such-folder/{ALICE}"])
def test_a_token_in_place_of_the_file_is_not_shown(given: str):
    with pytest.raises(ConfigError, match="token_file: cannot read the file that it names") as caught:
        Tokens(Path(given))
    assert ALICE not in str(caught.value) and caught.value.__cause__ is None

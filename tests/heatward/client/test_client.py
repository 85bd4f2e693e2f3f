"""The synchronous client against a fake server: answers, deadlines, retries, errors."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import fake_servicer
import grpc
import heatward
import pytest
from fake_servicer import FakeServer
from heatward.cli.facts import server_lines
from heatward.client.messages import detector_info, verdict
from heatward.v1 import detection_pb2 as pb


@pytest.fixture
def client(server: FakeServer) -> Iterator[heatward.Client]:
    with heatward.Client(server.address) as connected:
        yield connected


def test_detect_returns_every_field_of_the_verdict(client: heatward.Client) -> None:
    verdict = client.detect(b"attacked", false_positive_rate=0.05)
    assert verdict == heatward.Verdict(
        attacked=True,
        p_value=0.0005,
        attack_score=9.5,
        false_positive_rate=0.05,
        predicted=heatward.Label(1, "dog", 0.75),
        top=(heatward.Label(1, "dog", 0.75), heatward.Label(0, "cat", 0.25)),
        recovered=(heatward.Label(0, "cat", 0.9),),
        corrected=heatward.Label(0, "cat", 0.8),
        timings=heatward.Timings(queue_ms=0.1, decode_ms=0.2, compute_ms=3, total_ms=3.5, batch_size=4),
        detector_version="fake-1",
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.attacked = False  # type: ignore[misc]


def test_the_rate_is_left_to_the_server_unless_named(client: heatward.Client, server: FakeServer) -> None:
    assert client.detect(b"image").false_positive_rate == 0.01
    assert not server.detector.requests[-1].options.HasField("false_positive_rate")
    client.detect(b"image", top_k=3)
    assert server.detector.requests[-1].options.top_k == 3


def test_a_float_heatmap_reads_as_rows_and_as_numpy(client: heatward.Client) -> None:
    heatmap = client.detect(b"image", heatmap="float").heatmap
    assert heatmap is not None
    assert heatmap.rows() == [[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]
    assert heatmap.to_numpy().tolist() == heatmap.rows()
    assert heatmap.to_numpy().dtype == "float32"


def test_a_png_heatmap_comes_as_bytes(client: heatward.Client) -> None:
    verdict = client.detect(b"image", heatmap="png")
    assert (verdict.heatmap, verdict.heatmap_png) == (None, fake_servicer.PNG)


def test_an_unknown_heatmap_is_named_before_anything_is_sent(client: heatward.Client, server: FakeServer) -> None:
    with pytest.raises(ValueError, match="'float', 'png'; this is 'jpeg'"):
        client.detect(b"image", heatmap="jpeg")  # type: ignore[arg-type]
    assert server.detector.calls == 0


def test_a_refused_image_raises_with_the_field_named(client: heatward.Client) -> None:
    with pytest.raises(heatward.DetectionError) as caught:
        client.detect(b"bad")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.violations == (heatward.Violation("image.encoded", "not an image file"),)
    assert str(caught.value) == "INVALID_ARGUMENT: the image cannot be used\n  image.encoded: not an image file"


def test_a_full_queue_says_when_to_come_back(client: heatward.Client, server: FakeServer) -> None:
    server.detector.status = fake_servicer.QUEUE_FULL  # five attempts later
    with pytest.raises(heatward.DetectionError, match=r"retry after 0\.25 s") as caught:
        client.detect(b"image")
    assert (caught.value.code, caught.value.retry_after_s) == ("RESOURCE_EXHAUSTED", 0.25)


def test_unavailable_is_retried_even_for_large_images(client: heatward.Client, server: FakeServer) -> None:
    server.detector.fail_first = 2
    assert not client.detect(bytes(2_000_000)).attacked
    assert server.detector.calls == 3


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION])
def test_nothing_else_is_retried(client: heatward.Client, server: FakeServer, code: grpc.StatusCode) -> None:
    server.detector.fail_first, server.detector.failure = 1, code
    with pytest.raises(heatward.DetectionError, match=f"{code.name}: not now"):
        client.detect(b"image")
    assert server.detector.calls == 1


def test_a_deadline_passes(client: heatward.Client) -> None:
    with pytest.raises(heatward.DetectionError) as caught:
        client.detect(b"slow", timeout_s=0.1)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_the_clients_own_deadline_holds_for_every_call(server: FakeServer) -> None:
    with (
        heatward.Client(server.address, timeout_s=0.1) as client,
        pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"),
    ):
        client.detect_batch([b"slow"])


def test_no_server_is_unavailable() -> None:
    with (
        heatward.Client("127.0.0.1:1", timeout_s=5) as client,
        pytest.raises(heatward.DetectionError) as caught,
    ):
        client.describe()
    assert caught.value.code == "UNAVAILABLE"


def test_wait_for_ready_waits_until_the_deadline() -> None:
    with (
        heatward.Client("127.0.0.1:1", timeout_s=0.2, wait_for_ready=True) as client,
        pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"),
    ):
        client.describe()


def test_a_batch_answers_each_image_and_a_bad_one_harms_no_other(client: heatward.Client) -> None:
    first, second, third = client.detect_batch([b"attacked", b"bad", b"image"])
    assert isinstance(first, heatward.Verdict) and first.attacked
    assert second == heatward.Failure(
        "INVALID_ARGUMENT", "the image cannot be used", (heatward.Violation("image.encoded", "not an image file"),)
    )
    assert isinstance(third, heatward.Verdict) and not third.attacked
    with pytest.raises(heatward.DetectionError, match=r"image\.encoded"):
        raise second.error()


def test_describe_tells_what_was_measured_and_what_was_not(client: heatward.Client) -> None:
    info = client.describe()
    assert info.classifier.classes == fake_servicer.CLASSES
    assert info.heatmap_formats == ("float", "png")
    assert info.operating_points == (heatward.OperatingPoint(0.01, 2.5),)
    assert info.measured == (heatward.MeasuredRates("pgd-8", 0.991, 0.9, None, None, 12),)
    assert (info.calibration_size, info.smallest_false_positive_rate) == (1999, 0.0005)
    assert info.limits.max_batch == 64


def test_health_agrees_with_the_real_health_service(client: heatward.Client, server: FakeServer) -> None:
    name = fake_servicer.SERVICE
    server.set_serving(True)
    server.set_serving(False, name)
    assert client.health() is True
    assert client.health(name) is False
    with pytest.raises(heatward.DetectionError, match="NOT_FOUND"):
        client.health("unknown")


def test_the_token_travels_with_every_call(server: FakeServer) -> None:
    with heatward.Client(server.address, token="secret") as client:
        client.detect(b"image")
        assert server.detector.metadata["authorization"] == "Bearer secret"
        list(client.detect_stream([b"image"]))
        assert server.detector.metadata["authorization"] == "Bearer secret"


def test_an_address_that_is_a_web_address_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"'guard:50051'.*tls=True"):
        heatward.Client("https://guard:50051")


def test_garbled_details_do_not_hide_the_error() -> None:
    class Garbled(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INTERNAL

        def details(self) -> str:
            return "broken"

        def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
            return (("grpc-status-details-bin", b"\xff\xff"),)

    from heatward.errors import error_from_rpc

    assert str(error_from_rpc(Garbled())) == "INTERNAL: broken"


class Lost:
    """A call that ended well, but for its message."""

    def __call__(self, request: Any, **arguments: Any) -> None:
        return None

    def future(self, request: Any, **arguments: Any) -> Lost:
        return self

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def result(self) -> None:
        return None

    def add_done_callback(self, ended: Callable[[Any], None]) -> None:
        ended(self)

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("hedge_after_s", [None, 60])
@pytest.mark.parametrize("call", [lambda c: c.detect(b""), lambda c: c.detect_batch([b""]), lambda c: c.describe()])
def test_ok_without_a_message_is_an_error_of_ours(
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[heatward.Client], Any],
    hedge_after_s: float | None,
) -> None:
    with heatward.Client(server.address, hedge_after_s=hedge_after_s) as client:
        for method in ("Detect", "DetectBatch", "GetDetector"):
            monkeypatch.setattr(client._stub, method, Lost())
        with pytest.raises(heatward.DetectionError, match="while the answer arrived"):
            call(client)


@pytest.mark.parametrize("cancels", [True, False])
def test_an_asynchronous_client_lets_grpc_hear_of_cancelled_calls_before_it_is_gone(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, cancels: bool
) -> None:
    """Without that the last channel's end can stop the event loop for good (grpcio 1.71)."""
    server.detector.slow_first = 3 if cancels else 0
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(seconds)

    async def run() -> None:
        async with heatward.AsyncClient(server.address) as client:
            calls = [asyncio.create_task(client.detect(b"image")) for _ in range(3)]
            await sleep(0.2 if cancels else 0)
            for call in calls if cancels else ():
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            server.detector.released.set()
            monkeypatch.setattr(asyncio, "sleep", noted)

    asyncio.run(run())
    assert [0 < each <= 0.25 for each in waited] == [True] * cancels


def test_what_a_calibration_says_beside_the_p_value_comes_through() -> None:
    message = pb.Verdict(p_value=0.001, calibration_group="cat")
    assert verdict(message).tail_estimate is None and verdict(message).calibration_group == "cat"
    message.tail_estimate.CopyFrom(pb.TailEstimate(probability=1e-4, low=1e-6, high=1e-3))
    assert verdict(message).tail_estimate == heatward.TailEstimate(1e-4, 1e-6, 1e-3)
    group = pb.CalibrationGroup(name="cat", size=99)
    group.operating_points.add(false_positive_rate=0.01, threshold=2.5)
    info = detector_info(pb.DetectorInfo(calibration_groups=[group], has_tail=True))
    point = heatward.OperatingPoint(0.01, 2.5)
    assert info.calibration_groups == (heatward.CalibrationGroup("cat", 99, (point,)),) and info.has_tail
    said = server_lines(info)
    assert "clean images of cat: 99" in said and "estimated where a score is higher" in said


def test_a_cascade_comes_through_and_is_told() -> None:
    plain = detector_info(pb.DetectorInfo())
    assert plain.cascade is None and "cascade" not in server_lines(plain)
    info = detector_info(pb.DetectorInfo(cascade=pb.CascadeInfo(share_asked=0.65, share_cleared=0.625)))
    assert info.cascade == heatward.CascadeInfo(0.65, 0.625)
    assert "clears 62.5 % of clean images (65 % asked for)" in server_lines(info)


def test_patches_come_through_and_are_told() -> None:
    plain = detector_info(pb.DetectorInfo())
    assert plain.patches is None and "patches" not in server_lines(plain)
    info = detector_info(pb.DetectorInfo(patches=pb.PatchInfo(area=0.02, side=5, masks=36)))
    assert info.patches == heatward.PatchInfo(0.02, 5, 36)
    assert "up to 2 % of the image (5 pixels a side); forward passes more: 36" in server_lines(info)

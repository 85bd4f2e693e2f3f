from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from fake_detector import CURSED, FakeDetector
from google.rpc import code_pb2, error_details_pb2
from heatward.v1 import detection_pb2 as pb
from PIL import Image
from sample_requests import encoded, fields_at_fault, picture, png, raw, status_of
from torch import Tensor

from detector.detector import Verdict
from server.inference.image import ImageSource

# ---- one image ------------------------------------------------------------------------------------------------------


async def test_a_verdict_says_what_the_detector_said(serving):
    async with serving() as served:
        verdict = await served.stub.Detect(raw(picture(7), "my-id", top_k=2))
    assert verdict.request_id == "my-id"
    assert (verdict.predicted.index, verdict.predicted.name) == (7, "class-7")
    assert [label.index for label in verdict.top] == [7, 7]
    assert [label.name for label in verdict.recovered] == ["class-1", "class-2"]
    assert verdict.p_value == pytest.approx(193 / 200)
    assert not verdict.attacked
    assert verdict.false_positive_rate == 0.01
    assert verdict.timings.batch_size == 1
    assert verdict.timings.total_ms >= verdict.timings.compute_ms >= 0
    assert not verdict.HasField("heatmap")


async def test_the_chosen_rate_decides(serving):
    async with serving() as served:
        strict, lax = [await served.stub.Detect(raw(picture(190), false_positive_rate=rate)) for rate in (0.01, 0.05)]
    assert strict.p_value == lax.p_value == pytest.approx(0.05)
    assert (strict.attacked, lax.attacked) == (False, True)


async def test_heatmaps_as_numbers_and_as_a_picture(serving):
    async with serving() as served:
        numbers = await served.stub.Detect(raw(picture(100, 30, 20), heatmap=pb.HEATMAP_FORMAT_FLOAT))
        overlay = await served.stub.Detect(raw(picture(100), heatmap=pb.HEATMAP_FORMAT_PNG_OVERLAY))
    assert (numbers.heatmap.map.height, numbers.heatmap.map.width) == (4, 4)
    values = np.frombuffer(numbers.heatmap.map.data, "<f4")
    np.testing.assert_array_equal(values, np.linspace(-1, 1, 16, dtype=np.float32))
    with Image.open(io.BytesIO(overlay.heatmap.png)) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, 0, 2] > pixels[0, 0, 0]  # against the class: blue
    assert pixels[-1, -1, 0] > pixels[-1, -1, 2]  # for it: red


async def test_get_detector(serving):
    async with serving(max_image_pixels=1000) as served:
        info = await served.stub.GetDetector(pb.GetDetectorRequest())
        verdict = await served.stub.Detect(raw(picture()))
    assert (info.classifier.input_height, info.classifier.input_width) == (8, 8)
    assert info.classifier.classes[3] == "class-3"
    assert info.calibration_size == 199
    assert info.smallest_false_positive_rate == pytest.approx(1 / 200)
    assert [point.false_positive_rate for point in info.operating_points] == [0.01, 0.05, 0.1]
    assert info.limits.max_image_pixels == 1000
    assert info.version == verdict.detector_version != ""


# ---- bad input ------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG whose header claims 20,000 × 20,000 pixels."""
    data = bytearray(png(picture()))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    return bytes(data)


def animation() -> bytes:
    frames = [Image.fromarray(picture(label)) for label in (1, 200)]
    return png(frames[0], format="WEBP", save_all=True, append_images=frames[1:], duration=50)


def shaped(data: bytes, height: int, width: int, channels: int) -> pb.DetectRequest:
    return pb.DetectRequest(image=pb.Image(raw=pb.RawImage(data=data, height=height, width=width, channels=channels)))


PHOTO = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8), format="JPEG")
NO_SIZE = png(picture()).replace((8).to_bytes(4, "big") * 2, bytes(8))

BAD = {
    "not an image": (encoded(b"GET / HTTP/1.1"), "image.encoded"),
    "empty file": (encoded(b""), "image.encoded"),
    "truncated JPEG": (encoded(PHOTO[:-400]), "image.encoded"),
    "decompression bomb": (encoded(bomb()), "image.encoded"),
    "0x0 header": (encoded(NO_SIZE), "image.encoded"),
    "animated": (encoded(animation()), "image.encoded"),
    "GIF": (encoded(png(picture(), format="GIF")), "image.encoded"),
    "no image": (pb.DetectRequest(), "image"),
    "raw 0x0": (shaped(b"", 0, 0, 3), "image.raw.height"),
    "raw without width": (shaped(b"x", 1, 0, 3), "image.raw.width"),
    "raw too short": (shaped(b"x" * 11, 2, 2, 3), "image.raw.data"),
    "raw too long": (shaped(b"x" * 13, 2, 2, 3), "image.raw.data"),
    "raw of 2 channels": (shaped(b"x" * 8, 2, 2, 2), "image.raw.channels"),
    "raw of 20,000 squared": (shaped(b"x", 20_000, 20_000, 3), "image.raw.data"),
    "raw whose product overflows": (shaped(b"", 2**31, 2**31, 1), "image.raw.data"),
    "too many bytes": (raw(picture(1, 300, 300)), "image.raw"),
    "rate of 0": (raw(picture(), false_positive_rate=0.0), "options.false_positive_rate"),
    "rate of NaN": (raw(picture(), false_positive_rate=float("nan")), "options.false_positive_rate"),
    "rate that cannot be promised": (raw(picture(), false_positive_rate=0.001), "options.false_positive_rate"),
    "unknown heatmap": (raw(picture(), heatmap=9), "options.heatmap"),
    "long id": (raw(picture(), "é" * 65), "request_id"),
}


async def test_bad_input_is_refused_by_field_and_harms_no_neighbour(serving):
    names = list(BAD)
    requests = [raw(picture(5), "before")]
    for name in names:
        requests += [BAD[name][0], raw(picture(6))]
    async with serving(max_image_bytes=200_000) as served:
        results = (await served.stub.DetectBatch(pb.DetectBatchRequest(requests=requests))).results
        assert [r.verdict.predicted.index for r in results[::2]] == [5] + [6] * len(names)
        assert results[0].request_id == "before"
        for place, name in enumerate(names):
            status = results[2 * place + 1].status
            assert status.code == code_pb2.INVALID_ARGUMENT, name
            assert fields_at_fault(status) == [f"requests[{2 * place + 1}].{BAD[name][1]}"], name
            assert status.message, name
        for name, (request, field) in BAD.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.Detect(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
            assert fields_at_fault(status_of(caught.value)) == [field], name


def odd_images() -> dict[str, bytes]:
    sixteen = Image.fromarray(np.full((8, 8), 60 * 257, np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    return {
        "1x1": png(picture(9, 1, 1)),
        "CMYK JPEG": png(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), format="JPEG"),
        "16-bit grey PNG": png(sixteen),
        "transparent PNG": png(clear),
        "palette PNG": png(Image.fromarray(picture(33)).convert("P")),
        "WebP": png(picture(0), format="WEBP"),
        "JPEG": png(picture(0), format="JPEG"),
    }


async def test_unusual_images_are_answered(serving):
    images = odd_images()
    async with serving() as served:
        call = served.stub.DetectBatch(pb.DetectBatchRequest(requests=[encoded(data) for data in images.values()]))
        results = dict(zip(images, (await call).results, strict=True))
    labels = {name: result.verdict.predicted.index for name, result in results.items()}
    assert not any(result.HasField("status") for result in results.values())
    assert labels["1x1"] == 9
    assert labels["16-bit grey PNG"] == 60
    assert labels["transparent PNG"] == 255  # laid over white


async def test_size_of_a_batch_is_checked(serving):
    async with serving(images_per_call=3) as served:
        for count in (0, 4):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(picture())] * count))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert fields_at_fault(status_of(caught.value)) == ["requests"]


async def test_an_oversized_message_is_refused_by_grpc(serving):
    async with serving(max_message_bytes=2000) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(1, 40, 40)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await served.stub.Detect(raw(picture(1)))).predicted.index == 1


# ---- batching -------------------------------------------------------------------------------------------------------


async def settle(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError("the server did not come to rest")


async def occupy(served) -> grpc.aio.UnaryUnaryCall:
    """Lets the engine take one image and holds it there."""
    served.detector.gate.clear()
    served.detector.entered.clear()
    call = served.stub.Detect(raw(picture(1), "first"))
    await settle(served.detector.entered.is_set)
    return call


async def test_what_waits_is_detected_together(serving):
    async with serving(max_batch=8) as served:
        first = await occupy(served)
        calls = [served.stub.Detect(raw(picture(100 + i))) for i in range(20)]
        await settle(lambda: served.app.batcher.queued == 20)
        served.detector.gate.set()
        verdicts = await asyncio.gather(first, *calls)
    assert [verdict.predicted.index for verdict in verdicts] == [1, *range(100, 120)]
    assert [len(batch) for batch in served.detector.batches] == [1, 8, 8, 4]
    assert verdicts[5].timings.batch_size == 8
    assert served.detector.threads == {"heatward-engine-0"}


async def test_one_failing_image_fails_alone(serving):
    async with serving(max_batch=8) as served:
        first = await occupy(served)
        batch = [raw(picture(label)) for label in (20, 21, CURSED, 23, 24)]
        call = served.stub.DetectBatch(pb.DetectBatchRequest(requests=batch))
        other = served.stub.Detect(raw(picture(30)))
        await settle(lambda: served.app.batcher.queued == 6)
        served.detector.gate.set()
        results = (await call).results
        assert (await other).predicted.index == 30
        await first
    assert [r.verdict.predicted.index for r in results if r.HasField("verdict")] == [20, 21, 23, 24]
    assert results[2].status.code == code_pb2.INTERNAL
    assert "unlucky" not in results[2].status.message


async def test_full_queue_says_when_to_come_back(serving):
    async with serving(queue_items=3, max_batch=1) as served:
        first = await occupy(served)
        waiting = [served.stub.Detect(raw(picture(2))) for _ in range(3)]
        await settle(lambda: served.app.batcher.pending == 3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(3)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert status_of(caught.value).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() > 0
        pushback = caught.value.trailing_metadata()["grpc-retry-pushback-ms"]
        assert int(pushback) == retry.retry_delay.ToMilliseconds()
        served.detector.gate.set()
        assert len(await asyncio.gather(first, *waiting)) == 4
        assert (await served.stub.Detect(raw(picture(3)))).predicted.index == 3


async def test_cancelled_and_expired_work_is_never_computed(serving):
    async with serving() as served:
        first = await occupy(served)
        cancelled = served.stub.Detect(raw(picture(50)))
        expired = served.stub.Detect(raw(picture(51)), timeout=0.2)
        alive = served.stub.Detect(raw(picture(52)))
        await settle(lambda: served.app.batcher.pending == 3)
        cancelled.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await expired
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await settle(lambda: served.app.batcher.pending == 1)  # their places are free while the engine is still busy
        served.detector.gate.set()
        assert (await alive).predicted.index == 52
        await first
    assert served.detector.batches == [[1], [52]]


async def test_default_deadline_holds_where_the_caller_names_none(serving):
    async with serving(default_deadline_s=0.1) as served:
        first = await occupy(served)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Detect(raw(picture(2)))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError):
            await first


async def test_dead_engine_fails_what_waits_and_is_reported(serving):
    async with serving() as served:
        first = await occupy(served)
        second = served.stub.Detect(raw(picture(2)))
        await settle(lambda: served.app.batcher.pending == 1)
        served.detector.lethal = True
        served.detector.gate.set()
        for call in (first, second, served.stub.Detect(raw(picture(3)))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(await served.app.engines.stopped, SystemExit)


# ---- streams --------------------------------------------------------------------------------------------------------


async def test_stream_answers_every_id_once_as_it_is_ready(serving):
    requests = [raw(picture(i % 12), f"id-{i}") for i in range(200)]
    requests[50] = encoded(b"broken", "id-50")
    async with serving(in_flight_per_call=16) as served:
        results = [result async for result in served.stub.DetectStream(iter(requests))]
    by_id = {result.request_id: result for result in results}
    assert len(results) == len(by_id) == 200
    assert by_id.pop("id-50").status.code == code_pb2.INVALID_ARGUMENT
    assert all(by_id[f"id-{i}"].verdict.predicted.index == i % 12 for i in range(200) if i != 50)


async def test_stream_reads_no_further_than_its_window(serving):
    async with serving(in_flight_per_call=4, max_batch=2) as served:
        served.detector.gate.clear()
        call = served.stub.DetectStream(iter([raw(picture(i), str(i)) for i in range(30)]))
        await settle(lambda: served.detector.batches != [] and served.app.batcher.pending >= 2)
        await asyncio.sleep(0.05)
        assert served.app.batcher.pending + len(served.detector.batches[0]) <= 4
        served.detector.gate.set()
        assert len([result async for result in call]) == 30


async def test_stream_needs_ids_that_are_not_in_use(serving):
    async with serving() as served:
        served.detector.gate.clear()
        call = served.stub.DetectStream()
        for request in (raw(picture(1), "a"), raw(picture(2)), raw(picture(3), "a")):
            await call.write(request)
        faults = [await call.read(), await call.read()]
        assert [fields_at_fault(fault.status) for fault in faults] == [["request_id"], ["request_id"]]
        served.detector.gate.set()
        assert (await call.read()).verdict.predicted.index == 1
        await call.write(raw(picture(4), "a"))  # free again once it is answered
        await call.done_writing()
        assert (await call.read()).verdict.predicted.index == 4
        assert await call.code() is grpc.StatusCode.OK


async def test_cancelled_stream_leaves_nothing_behind(serving):
    async with serving(max_batch=1) as served:
        first = await occupy(served)
        call = served.stub.DetectStream()
        for i in range(5):
            await call.write(raw(picture(40), str(i)))
        await settle(lambda: served.app.batcher.pending == 5)
        call.cancel()
        await settle(lambda: served.app.batcher.pending == 0)
        served.detector.gate.set()
        await first
    assert served.detector.batches == [[1]]


async def test_what_nobody_waits_for_is_not_decoded(serving, monkeypatch: pytest.MonkeyPatch):
    decoded: list[int] = []
    gate = threading.Event()

    decode = ImageSource.decode

    def slow(source: ImageSource, limits: Any) -> Any:
        pixels = decode(source, limits)
        decoded.append(int(pixels[0, 0, 0]))
        gate.wait(10)
        return pixels

    monkeypatch.setattr(ImageSource, "decode", slow)
    async with serving(decode_workers=1) as served:
        first = served.stub.Detect(encoded(png(picture(1)), "first"))
        await settle(lambda: decoded == [1])
        left = served.stub.Detect(encoded(png(picture(2)), "left"))
        await settle(lambda: served.app.batcher.pending == 2)
        left.cancel()
        await settle(lambda: served.app.batcher.pending == 1)
        gate.set()
        assert (await first).predicted.index == 1
        assert (await served.stub.Detect(encoded(png(picture(3)), "last"))).predicted.index == 3
    assert decoded == [1, 3]


async def test_detector_that_answers_too_few_is_an_error_not_a_mix_up(serving):
    class Forgetful(FakeDetector):
        def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
            return super().detect(images)[:1]

    detector = Forgetful()
    async with serving(detector) as served:
        first = await occupy(served)
        calls = [served.stub.Detect(raw(picture(60 + i))) for i in range(4)]
        await settle(lambda: served.app.batcher.queued == 4)
        served.detector.gate.set()
        assert [(await call).predicted.index for call in calls] == [60, 61, 62, 63]
        await first


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

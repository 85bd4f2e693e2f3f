"""Images over the servers' limits, and batches of any size: what is sent, in how many calls, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import heatward
import numpy as np
import pytest
from either import both
from fake_servicer import FakeServer
from heatward.client import batches
from heatward.client.limits import KEPT_S, UNKNOWN_KEPT_S, KnownLimits, too_large
from heatward.client.messages import detect_request
from heatward.v1 import detection_pb2 as pb
from PIL import Image

MIB = 2**20
Answers = list[heatward.Verdict | heatward.Failure]


@pytest.fixture
def small() -> Iterator[FakeServer]:
    """Takes messages of 1 MiB, and says so."""
    fake = FakeServer(max_message_bytes=MIB)
    yield fake
    fake.stop()


async def ask(kind: str, how: str, address: str, images: Any, **settings: Any) -> Answers:
    """A batch or a stream through either client; answers in the order of the images."""
    if kind == "async":
        async with heatward.AsyncClient(address) as client:
            if how == "batch":
                return await client.detect_batch(images, **settings)
            pairs = [pair async for pair in client.detect_stream(images, **settings)]
    else:
        with heatward.Client(address) as client:
            if how == "batch":
                return await asyncio.to_thread(client.detect_batch, images, **settings)
            pairs = await asyncio.to_thread(lambda: list(client.detect_stream(images, **settings)))
    return [answer for _, answer in sorted(pairs, key=lambda pair: pair[0])]


def kinds(answers: Answers) -> str:
    return "".join("v" if isinstance(answer, heatward.Verdict) else "F" for answer in answers)


how = pytest.mark.parametrize("how", ["batch", "stream"])


@both
@how
async def test_what_no_message_can_hold_fails_alone_and_unsent(
    small: FakeServer, kind: str, how: str, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bytes(2 * MIB))
    array = np.zeros((1024, 1024, 3), np.uint8)
    images = [b"image", path, bytes(2000), array, Image.fromarray(array), bytes(MIB), b"image"]
    answers = await ask(kind, how, small.address, images)
    assert kinds(answers) == "vFvFFFv"
    for answer, field in ((answers[1], "image.encoded"), (answers[3], "image.raw.data")):
        assert isinstance(answer, heatward.Failure)
        assert answer.code == "INVALID_ARGUMENT" and answer.violations[0].field == field
        assert str(MIB) in answer.message and "smaller" in answer.message
    assert len(small.detector.requests) == 3
    assert small.detector.described == 1


@both
@how
async def test_the_largest_image_that_fits_is_sent(small: FakeServer, kind: str, how: str) -> None:
    answers = await ask(kind, how, small.address, [bytes(MIB - 100), bytes(MIB), bytes(MIB - 100)])
    assert kinds(answers) == "vFv"


@both
@how
async def test_a_larger_image_than_the_server_reads_is_not_sent(server: FakeServer, kind: str, how: str) -> None:
    server.detector.limits.max_image_bytes = 5000
    assert kinds(await ask(kind, how, server.address, [bytes(5000), bytes(5001), b"image"])) == "vFv"
    assert len(server.detector.requests) == 2


@both
@how
@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_server_that_does_not_tell_its_limits_answers_all_the_same(
    server: FakeServer, kind: str, how: str, code: grpc.StatusCode
) -> None:
    server.detector.no_description = code
    assert kinds(await ask(kind, how, server.address, [bytes(5000)] * 20)) == "v" * 20
    assert server.detector.described == 1


@both
async def test_limits_are_asked_for_once(server: FakeServer, kind: str) -> None:
    with heatward.Client(server.address) as client:
        for _ in range(3):
            client.detect_batch([bytes(5000)] * 2)
            list(client.detect_stream([bytes(5000)] * 2))
        assert server.detector.described == 1
    with heatward.Client(server.address) as client:
        client.describe()
        client.detect_batch([bytes(5000)] * 2)
        assert server.detector.described == 2


@both
async def test_a_single_image_over_the_limit_is_refused_unsent(kind: str) -> None:
    server = FakeServer(max_message_bytes=5 * MIB)
    try:
        with heatward.Client(server.address) as client, pytest.raises(heatward.DetectionError) as caught:
            if kind == "sync":
                client.detect(bytes(6 * MIB))
            else:
                async with heatward.AsyncClient(server.address) as asynchronous:
                    await asynchronous.detect(bytes(6 * MIB))
        assert caught.value.code == "INVALID_ARGUMENT" and caught.value.violations[0].field == "image.encoded"
        assert (server.detector.calls, server.detector.described) == (1, 1)
    finally:
        server.stop()


def test_grpcs_own_words_for_a_large_message_never_come_through(small: FakeServer) -> None:
    with heatward.Client(small.address) as client, pytest.raises(heatward.DetectionError) as caught:
        client.detect(bytes(2 * MIB))  # below what asks first
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert "larger than max" not in str(caught.value) and f"{MIB} are taken" in str(caught.value)


def test_limits_are_forgotten_after_a_while() -> None:
    now_s = 5.0
    known = KnownLimits(lambda: now_s)
    assert known.get() is None
    known.learn(pb.DetectorInfo(limits=pb.Limits(max_batch=3)))
    now_s += KEPT_S - 1
    limits = known.get()
    assert limits is not None and limits.max_batch == 3
    now_s += 1
    assert known.get() is None
    known.learn(None)
    assert known.get() == pb.Limits()
    now_s += UNKNOWN_KEPT_S
    assert known.get() is None
    known.learn(pb.DetectorInfo())
    known.forget()
    assert known.get() is None


def test_nothing_is_too_large_for_limits_that_are_not_known() -> None:
    request = detect_request(bytes(MIB), pb.DetectRequest())
    assert too_large(request, pb.Limits()) is None
    exact = pb.Limits(max_message_bytes=request.ByteSize())
    assert too_large(request, exact) is None and too_large(request, exact, 1) is not None


@both
async def test_a_batch_of_any_size_is_answered_in_its_order(server: FakeServer, kind: str) -> None:
    images = [b"attacked" if index % 7 == 0 else b"bad" if index % 11 == 0 else b"image" for index in range(500)]
    answers = await ask(kind, "batch", server.address, images)
    assert len(answers) == 500
    for image, answer in zip(images, answers, strict=True):
        if image == b"bad":
            assert isinstance(answer, heatward.Failure)
        else:
            assert isinstance(answer, heatward.Verdict) and answer.attacked == (image == b"attacked")
    assert sum(server.detector.batches) == 500 and max(server.detector.batches) <= batches.PART_IMAGES


@both
async def test_a_batch_is_split_by_the_servers_count(server: FakeServer, kind: str) -> None:
    server.detector.limits.max_batch = 3
    assert kinds(await ask(kind, "batch", server.address, [bytes(600)] * 10)) == "v" * 10
    assert max(server.detector.batches) <= 3


@both
async def test_a_batch_is_split_by_the_servers_bytes(small: FakeServer, kind: str) -> None:
    assert kinds(await ask(kind, "batch", small.address, [bytes(300_000)] * 10)) == "v" * 10
    assert sorted(small.detector.batches) == [1, 3, 3, 3]  # two calls at a time: in any order


@both
async def test_an_empty_batch_and_one_of_failures_only_ask_nobody(server: FakeServer, kind: str) -> None:
    assert await ask(kind, "batch", server.address, []) == []
    assert kinds(await ask(kind, "batch", server.address, iter(["missing.png", 3]))) == "FF"
    assert server.detector.calls == 0


@both
async def test_at_the_deadline_a_batch_gives_what_is_ready(server: FakeServer, kind: str) -> None:
    images = [b"image"] * batches.PART_IMAGES + [b"slow"] + [b"image"] * 200
    answers = await ask(kind, "batch", server.address, images, timeout_s=0.7)
    assert len(answers) == len(images)
    assert kinds(answers[: batches.PART_IMAGES]) == "v" * batches.PART_IMAGES
    late = answers[batches.PART_IMAGES]
    assert isinstance(late, heatward.Failure) and late.code == "DEADLINE_EXCEEDED"


@both
async def test_each_image_of_a_batch_is_due_before_its_call(server: FakeServer, kind: str) -> None:
    await ask(kind, "batch", server.address, [b"image"] * 2, timeout_s=4)
    assert all(3000 < request.timeout_ms < 4000 for request in server.detector.requests)


@both
async def test_a_batch_that_nobody_answers_raises(server: FakeServer, kind: str) -> None:
    server.detector.fail_first, server.detector.failure = 99, grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(heatward.DetectionError, match="UNAUTHENTICATED: not now"):
        await ask(kind, "batch", server.address, [b"image", "missing.png"] * 100)


@both
async def test_an_exception_of_the_callers_own_iterator_comes_through(server: FakeServer, kind: str) -> None:
    def images() -> Iterator[bytes]:
        yield from [b"image"] * 100
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await ask(kind, "batch", server.address, images())


ONE_IMAGE = ["a.jpg", b"bytes", Path("a.jpg"), np.zeros((4, 6, 3), np.uint8), Image.new("RGB", (4, 4)), 3, None]


@both
@how
@pytest.mark.parametrize("images", ONE_IMAGE, ids=lambda image: type(image).__name__)
async def test_one_image_is_no_list_of_images(server: FakeServer, kind: str, how: str, images: Any) -> None:
    with pytest.raises(TypeError, match="images are a list"):
        await ask(kind, how, server.address, images)
    assert server.detector.calls == 0


@both
@how
async def test_an_open_file_is_no_list_of_images(server: FakeServer, kind: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"image\nimage")
    with path.open("rb") as file, pytest.raises(TypeError, match=r"write \[image\]"):
        await ask(kind, how, server.address, file)


@both
@how
async def test_an_array_of_many_images_is_a_list_of_them(server: FakeServer, kind: str, how: str) -> None:
    assert kinds(await ask(kind, how, server.address, np.zeros((5, 4, 6, 3), np.uint8))) == "v" * 5
    assert kinds(await ask(kind, how, server.address, np.array(["missing.png"] * 2))) == "FF"


def test_the_synchronous_client_says_who_reads_asynchronous_images(server: FakeServer) -> None:
    async def images() -> AsyncIterator[bytes]:
        yield b"image"

    with heatward.Client(server.address) as client, pytest.raises(TypeError, match="AsyncClient"):
        client.detect_stream(images())  # type: ignore[arg-type]

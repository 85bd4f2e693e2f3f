"""Streams of both clients: order, failures, deadlines of single images, and what goes wrong while reading images."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import heatward
import numpy as np
import pytest
from fake_servicer import FakeServer

Answers = list[tuple[int, heatward.Verdict | heatward.Failure]]


async def collect(kind: str, address: str, images: Any, answered: list[int] | None = None, **settings: Any) -> Answers:
    """The same stream through either client; `answered` gets the indices as they come."""
    came = [] if answered is None else answered
    answers: Answers = []
    if kind == "async":
        async with heatward.AsyncClient(address) as client:
            async for item in client.detect_stream(images, **settings):
                answers.append(item)
                came.append(item[0])
        return answers

    def run() -> Answers:
        with heatward.Client(address) as client:
            for item in client.detect_stream(images, **settings):
                answers.append(item)
                came.append(item[0])
        return answers

    return await asyncio.to_thread(run)


both = pytest.mark.parametrize("kind", ["sync", "async"])


@both
async def test_answers_out_of_order_find_their_images(server: FakeServer, kind: str) -> None:
    server.detector.order = 5
    images = [b"attacked" if i % 3 == 0 else b"bad" if i % 7 == 1 else b"image" for i in range(23)]
    answers = await collect(kind, server.address, images)
    assert [index for index, _ in answers][:5] == [4, 3, 2, 1, 0]
    assert sorted(index for index, _ in answers) == list(range(23))
    for index, answer in answers:
        if images[index] == b"bad":
            assert isinstance(answer, heatward.Failure) and answer.violations[0].field == "image.encoded"
        else:
            assert isinstance(answer, heatward.Verdict) and answer.attacked == (images[index] == b"attacked")


@both
async def test_the_server_is_told_each_images_deadline(server: FakeServer, kind: str) -> None:
    await collect(kind, server.address, [b"image"] * 2, timeout_s=7.5)
    assert [request.timeout_ms for request in server.detector.requests] == [7500] * 2


@both
async def test_no_images_give_no_answers(server: FakeServer, kind: str) -> None:
    assert await collect(kind, server.address, []) == []


@both
async def test_images_are_read_no_further_ahead_than_asked(server: FakeServer, kind: str) -> None:
    server.detector.order = 4
    read: list[int] = []

    def images() -> Iterator[bytes]:
        for index in range(12):
            answered = len(server.detector.requests) // 4 * 4
            assert index - answered <= 4
            read.append(index)
            yield b"image"

    assert len(await collect(kind, server.address, images(), max_in_flight=4)) == 12
    assert read == list(range(12))


@both
async def test_an_image_without_answer_ends_the_stream_at_its_deadline(server: FakeServer, kind: str) -> None:
    with pytest.raises(heatward.DetectionError, match=r"no answer within 0\.2 s") as caught:
        await collect(kind, server.address, [b"image", b"slow"], timeout_s=0.2)
    assert caught.value.code == "DEADLINE_EXCEEDED"


@both
async def test_slow_reading_is_not_a_missed_deadline(server: FakeServer, kind: str) -> None:
    def images() -> Iterator[bytes]:
        yield b"image"
        time.sleep(0.9)
        yield b"image"

    if kind == "async":

        async def slow() -> AsyncIterator[bytes]:
            yield b"image"
            await asyncio.sleep(0.9)
            yield b"image"

        assert len(await collect(kind, server.address, slow(), timeout_s=0.6)) == 2
    else:
        assert len(await collect(kind, server.address, images(), timeout_s=0.6)) == 2


@both
async def test_a_slow_caller_is_not_a_missed_deadline(server: FakeServer, kind: str) -> None:
    count = 0
    if kind == "async":
        async with heatward.AsyncClient(server.address) as client:
            async for _ in client.detect_stream([b"image"] * 4, timeout_s=0.6):
                time.sleep(0.3)  # a caller that blocks the loop, too
                count += 1
    else:
        with heatward.Client(server.address) as client:
            for _ in client.detect_stream([b"image"] * 4, timeout_s=0.6):
                time.sleep(0.3)
                count += 1
    assert count == 4


@both
async def test_an_error_while_reading_images_reaches_the_caller(server: FakeServer, kind: str) -> None:
    def images() -> Iterator[bytes]:
        yield from [b"image"] * 3
        raise LookupError("no more")

    answered: list[int] = []
    with pytest.raises(LookupError, match="no more"):
        await collect(kind, server.address, images(), answered=answered)
    assert answered == [0, 1, 2]


@both
async def test_what_is_no_image_is_a_failure_in_its_place(server: FakeServer, kind: str) -> None:
    images = [b"image", "missing.png", b"attacked", 3, np.zeros((4, 4), np.float32), b"image"]
    answers = dict(await collect(kind, server.address, images))
    assert sorted(answers) == list(range(6))
    for index, said in ((1, "missing.png"), (3, "builtins.int"), (4, "float32")):
        failure = answers[index]
        assert isinstance(failure, heatward.Failure)
        assert failure.code == "INVALID_ARGUMENT" and said in failure.message
    assert [isinstance(answers[index], heatward.Verdict) for index in (0, 2, 5)] == [True] * 3
    assert len(server.detector.requests) == 3


@both
async def test_more_failures_than_may_be_in_flight_do_not_stop_a_stream(server: FakeServer, kind: str) -> None:
    answers = await collect(kind, server.address, ["missing.png"] * 9 + [b"image"], max_in_flight=2)
    assert [type(answer) for _, answer in sorted(answers)] == [heatward.Failure] * 9 + [heatward.Verdict]


@both
async def test_an_error_comes_after_what_is_answered_and_counts_what_is_not(server: FakeServer, kind: str) -> None:
    server.detector.order, server.detector.break_after = 2, 4
    answered: list[int] = []
    with pytest.raises(heatward.DetectionError, match="UNAVAILABLE: cut; 3 images of the stream unanswered"):
        await collect(kind, server.address, [b"image"] * 7, answered=answered, max_in_flight=7)
    assert sorted(answered) == [0, 1, 2, 3]


@both
async def test_a_lost_answer_is_noticed(server: FakeServer, kind: str) -> None:
    server.detector.order, server.detector.lose_last = 10, True
    with pytest.raises(heatward.DetectionError, match="1 images unanswered"):
        await collect(kind, server.address, [b"image"] * 3)


@both
async def test_an_error_of_the_call_is_ours(server: FakeServer, kind: str) -> None:
    server.detector.fail_first = 99
    with pytest.raises(heatward.DetectionError, match="UNAVAILABLE: not now"):
        await collect(kind, server.address, [b"image"])


async def test_the_servers_status_reaches_a_client_that_was_still_sending(server: FakeServer) -> None:
    server.detector.fail_first, server.detector.failure = 10**6, grpc.StatusCode.UNAUTHENTICATED
    for _ in range(20):  # grpc.aio loses the status of most of them
        with pytest.raises(heatward.DetectionError, match="UNAUTHENTICATED: not now"):
            await collect("async", server.address, [bytes(10_000)] * 40)


@both
async def test_a_stream_may_be_left_early(server: FakeServer, kind: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"image"

    if kind == "async":
        async with heatward.AsyncClient(server.address) as client:
            answers = client.detect_stream(endless())
            assert (await anext(answers))[0] == 0
            await answers.aclose()  # type: ignore[attr-defined]
            assert not (await client.detect(b"image")).attacked
    else:
        with heatward.Client(server.address) as blocking:
            read = blocking.detect_stream(endless())
            assert next(read)[0] == 0
            read.close()  # type: ignore[attr-defined]
            assert not blocking.detect(b"image").attacked


async def test_the_async_client_answers_as_the_other(server: FakeServer) -> None:
    server.set_serving(True)
    with heatward.Client(server.address) as client:
        expected = client.detect(b"attacked", heatmap="float")
    async with heatward.AsyncClient(server.address, token="secret") as client:
        assert await client.detect(b"attacked", heatmap="float") == expected
        assert server.detector.metadata["authorization"] == "Bearer secret"
        together = await asyncio.gather(*(client.detect(b"image") for _ in range(8)))
        assert not any(verdict.attacked for verdict in together)
        batch = await client.detect_batch([b"attacked", b"bad"], top_k=2)
        assert [type(item) for item in batch] == [heatward.Verdict, heatward.Failure]
        assert batch[0] == await client.detect(b"attacked", top_k=2)
        assert (await client.describe()).name == "fake"
        assert await client.health() is True
        with pytest.raises(heatward.DetectionError, match=r"image\.encoded"):
            await client.detect(b"bad")
        with pytest.raises(heatward.DetectionError, match="DEADLINE_EXCEEDED"):
            await client.detect(b"slow", timeout_s=0.1)

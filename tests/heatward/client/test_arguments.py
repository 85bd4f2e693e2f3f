"""Numbers that make no sense, closed clients and forks: one sentence, before anything is sent."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import heatward
import numpy as np
import pytest
from either import both, either
from fake_servicer import FakeServer

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout_s", value) for value in (NAN, 0, -1, -INF, "2", None, True, [2])]
    + [("hedge_after_s", value) for value in (NAN, 0, -1, INF, "0.1", True)]
    + [("address", value) for value in (None, 50051, b"guard:1")],
)
@pytest.mark.parametrize("client", [heatward.Client, heatward.AsyncClient])
async def test_a_client_refuses_what_makes_no_sense(client: type, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name) as caught:
        client(**{name: value})
    assert "\n" not in str(caught.value)


CALLS = [
    ("timeout_s", NAN),
    ("timeout_s", "2"),
    ("timeout_s", True),
    ("timeout_s", 10**400),
    ("false_positive_rate", "0.01"),
    ("false_positive_rate", NAN),
    ("false_positive_rate", INF),
    ("false_positive_rate", 0),
    ("false_positive_rate", 1),
    ("false_positive_rate", 5),
    ("false_positive_rate", -0.1),
    ("false_positive_rate", True),
    ("max_error_rate", "0.01"),
    ("max_error_rate", NAN),
    ("max_error_rate", 0),
    ("max_error_rate", 1),
    ("max_error_rate", 5),
    ("max_error_rate", True),
    ("look_for_patches", 1),
    ("look_for_patches", "yes"),
    ("top_k", 0),
    ("top_k", -1),
    ("top_k", 2.0),
    ("top_k", "3"),
    ("top_k", 2**40),
    ("heatmap", "x" * 10**6),
    ("heatmap", ["png"]),
    ("max_in_flight", 0),
    ("max_in_flight", 1.5),
    ("max_in_flight", "8"),
    ("max_in_flight", None),
]


@both
@pytest.mark.parametrize(("name", "value"), CALLS, ids=lambda value: str(value)[:20])
async def test_a_call_refuses_what_makes_no_sense(server: FakeServer, kind: str, name: str, value: Any) -> None:
    synchronous, asynchronous = heatward.Client(server.address), heatward.AsyncClient(server.address)
    client = synchronous if kind == "sync" else asynchronous
    calls: list[Callable[[], Any]] = [lambda: client.detect_stream([b"image"], **{name: value})]
    if name != "max_in_flight":
        calls += [
            lambda: client.detect(b"image", **{name: value}),
            lambda: client.detect_batch([b"i"], **{name: value}),
        ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=name) as caught:
            made = call()  # a stream is refused where it is asked for, not where it is read
            if kind == "async":
                await made
        assert len(str(caught.value)) < 200
    assert server.detector.calls == 0
    synchronous.close()
    await asynchronous.close()


def test_a_rate_in_percent_is_told_how_to_write_it(server: FakeServer) -> None:
    with heatward.Client(server.address) as client, pytest.raises(ValueError, match=r"write 5 % as 0\.05"):
        client.detect(b"image", false_positive_rate=5)


def test_numbers_of_numpy_are_numbers(server: FakeServer) -> None:
    with heatward.Client(server.address, timeout_s=np.float32(5)) as client:  # type: ignore[arg-type]
        settings: dict[str, Any] = {
            "false_positive_rate": np.float32(0.5),
            "top_k": np.int64(2),
            "timeout_s": np.int8(9),
        }
        assert client.detect(b"image", **settings).false_positive_rate == 0.5
        assert client.detect(b"image", timeout_s=INF)


@pytest.mark.parametrize("left_s", [0, -0.5, -INF])
@both
async def test_no_time_left_is_a_deadline_that_has_passed(server: FakeServer, kind: str, left_s: float) -> None:
    """As with the `time_remaining()` of a call that is late."""
    with pytest.raises(heatward.DetectionError, match="nothing was sent") as caught:
        if kind == "sync":
            with heatward.Client(server.address) as client:
                client.detect(b"image", timeout_s=left_s)
        else:
            async with heatward.AsyncClient(server.address) as asynchronous:
                await asynchronous.detect(b"image", timeout_s=left_s)
    assert caught.value.code == "DEADLINE_EXCEEDED" and server.detector.calls == 0


async def test_a_closed_client_says_so(server: FakeServer) -> None:
    client, asynchronous = heatward.Client(server.address), heatward.AsyncClient(server.address)
    waiting, awaiting = client.detect_stream([b"image"]), asynchronous.detect_stream([b"image"])
    for _ in range(2):  # closing twice is no fault
        client.close()
        await asynchronous.close()
    for call in (
        lambda: client.detect(b"image"),
        lambda: client.detect_batch([b"image"]),
        lambda: client.detect_stream([b"image"]),
        client.describe,
        client.health,
        lambda: next(waiting),
    ):
        with pytest.raises(heatward.DetectionError, match="the client is closed") as caught:
            call()
        assert caught.value.code == "CANCELLED"
    for make in (
        lambda: asynchronous.detect(b"image"),
        lambda: asynchronous.detect_batch([b"image"]),
        asynchronous.describe,
        asynchronous.health,
        lambda: anext(awaiting),
    ):
        with pytest.raises(heatward.DetectionError, match="the client is closed"):
            await make()
    with pytest.raises(heatward.DetectionError, match="the client is closed"):
        asynchronous.detect_stream([b"image"])


FORKS = """
import asyncio, os, sys, threading
{before}
import heatward
address, how = sys.argv[1:]

def child(inherited):
    if os.fork():
        assert os.wait()[1] == 0
        return
    try:
        try:
            inherited.detect_stream([b"image"])
        except RuntimeError as error:
            print("inherited:", error, flush=True)
        with heatward.Client(address, timeout_s=20) as own:
            print("own:", type(own.detect(b"image")).__name__, flush=True)
    except RuntimeError as error:
        print("refused:", error, flush=True)
    finally:
        os._exit(0)

def threads():
    go_on = threading.Event()
    def images():
        yield b"image"
        go_on.wait(60)
        yield b"image"
    with heatward.Client(address) as client:
        stream = client.detect_stream(images())
        next(stream)
        child(client)
        go_on.set()
        print("parent:", len(list(stream)), flush=True)

def call():
    with heatward.Client(address) as client:
        waiting = threading.Thread(target=client.detect, args=(b"slow",), daemon=True)
        waiting.start()
        waiting.join(0.3)
        child(client)
        os._exit(0)

async def loop():
    async with heatward.AsyncClient(address) as client:
        await client.detect(b"image")
        child(client)

{{"threads": threads, "call": call, "loop": lambda: asyncio.run(loop())}}[how]()
os._exit(0)
"""


def forked(address: str, how: str, before: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("GRPC_ENABLE_FORK_SUPPORT", None)
    ended = subprocess.run(
        [sys.executable, "-c", FORKS.format(before=before), address, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=40,
    )
    return ended.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_fork_beside_an_open_stream_harms_neither_process(process: tuple[str, int]) -> None:
    said = forked(process[0], "threads")
    assert "own: Verdict" in said and "parent: 1" in said
    assert "inherited: this client was opened before the process was forked" in said


@needs_fork
def test_a_fork_that_grpc_was_not_prepared_for_is_an_error_and_no_hang(process: tuple[str, int]) -> None:
    assert "refused: gRPC cannot be used in this process, because a stream was open" in forked(
        process[0], "threads", before="import grpc"
    )


@needs_fork
def test_a_fork_beside_a_call_does_not_harm_the_child(process: tuple[str, int]) -> None:
    assert "own: Verdict" in forked(process[0], "call")


@needs_fork
def test_a_fork_beside_an_asyncio_client_is_an_error_and_no_hang(process: tuple[str, int]) -> None:
    assert "refused: gRPC cannot be used in this process, because an AsyncClient was open" in forked(process[0], "loop")


@both
@pytest.mark.parametrize("service", [None, 5, "x" * 128, "\ud800", "é"])
async def test_a_service_that_is_no_name_is_refused(server: FakeServer, kind: str, service: Any) -> None:
    async with either(kind, server.address) as client:
        with pytest.raises((TypeError, ValueError), match="service is a name such as"):
            await client.health(service)


@both
async def test_a_service_that_the_server_has_not_is_named(server: FakeServer, kind: str) -> None:
    async with either(kind, server.address) as client:
        with pytest.raises(heatward.DetectionError, match=r"NOT_FOUND: the server at .* has no service of that name"):
            await client.health("another")


def test_a_path_that_holds_nul_is_named(server: FakeServer) -> None:
    with heatward.Client(server.address) as client:
        with pytest.raises(ValueError, match="a path has no NUL character"):
            client.detect("\0JFIF")
        (failure,) = client.detect_batch(["\0JFIF"])
    assert isinstance(failure, heatward.Failure) and "NUL" in failure.message


def test_a_client_that_is_closed_while_a_stream_is_open_says_so(server: FakeServer) -> None:
    client = heatward.Client(server.address)
    answers = client.detect_stream([b"image"] * 200, max_in_flight=2)
    next(answers)
    client.close()
    with pytest.raises(heatward.DetectionError, match="the client is closed: open another one"):
        list(answers)

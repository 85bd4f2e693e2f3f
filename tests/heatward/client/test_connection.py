"""Where the client finds its servers and how it is let in: several addresses, health, TLS on both sides."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import heatward
import pytest
import trustme
from either import both, either
from fake_servicer import SERVICE, FakeServer
from heatward import cli
from heatward.client import connection
from heatward.client.target import target


@pytest.fixture
def second() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@both
async def test_replicas_are_asked_in_turn_and_a_draining_one_not_at_all(
    server: FakeServer, second: FakeServer, kind: str
) -> None:
    second.set_serving(False, SERVICE)
    async with either(kind, f"{server.address},{second.address}") as client, asyncio.timeout(60):
        for _ in range(6):
            await client.detect(b"image")
        assert (server.detector.calls, second.detector.calls) == (6, 0)
        second.set_serving(True, SERVICE)
        while not second.detector.calls:
            await client.detect(b"image", timeout_s=5)
        server.set_serving(False, SERVICE)
        before = -1
        while server.detector.calls != before:  # until the news has come
            before = server.detector.calls
            for _ in range(4):
                await client.detect(b"image")


@both
async def test_a_dead_replica_costs_no_answer(server: FakeServer, kind: str) -> None:
    async with either(kind, f"127.0.0.1:1, {server.address}") as client:
        for _ in range(4):
            assert not (await client.detect(b"image")).attacked
    assert server.detector.calls == 4


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a POSIX signal")
@both
async def test_a_replica_that_hangs_is_left_out(
    server: FakeServer, process: tuple[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicker = [(name, 200 if value == 10_000 else value) for name, value in connection.OPTIONS]
    monkeypatch.setattr(connection, "OPTIONS", quicker)
    hanging, number = process
    async with either(kind, f"{server.address},{hanging}") as client, asyncio.timeout(60):
        asked = 0
        while server.detector.calls in (0, asked):  # until both have answered
            await client.detect(b"image")
            asked += 1
        os.kill(number, signal.SIGSTOP)
        answered = 0
        while answered < 4:  # in turn, every second one would fail
            try:
                await client.detect(b"image", timeout_s=0.3)
                answered += 1
            except heatward.DetectionError as error:
                assert error.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
                answered = 0


@both
async def test_health_is_false_while_a_server_takes_no_calls(server: FakeServer, kind: str) -> None:
    server.set_serving(False)
    server.set_serving(False, SERVICE)
    async with either(kind, server.address) as client:
        assert await client.health() is False
        with pytest.raises(heatward.DetectionError, match="UNAVAILABLE"):
            await client.detect(b"image")
    assert server.detector.calls == 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("guard:50051", ("guard:50051", None)),
        ("unix:/run/guard.sock", ("unix:/run/guard.sock", None)),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", ("ipv4:10.0.0.1:50051,10.0.0.2:50051", None)),
        ("10.0.0.1:50051, 10.0.0.2:50052", ("ipv4:10.0.0.1:50051,10.0.0.2:50052", "10.0.0.1:50051")),
        ("[::1]:50051,[fd00::2]:50051", ("ipv6:[::1]:50051,[fd00::2]:50051", "[::1]:50051")),
    ],
)
def test_an_address_becomes_a_target(address: str, expected: tuple[str, str | None]) -> None:
    assert target(address) == expected


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("guard-1:50051,guard-2:50051", "'guard-1:50051' is not ip:port.*one DNS name"),
        ("10.0.0.1:50051,10.0.0.2", r"'10\.0\.0\.2' is not ip:port"),
        ("10.0.0.1:50051,", "'' is not ip:port"),
        ("10.0.0.1:50051,[::1]:50051", "all IPv4 or all IPv6"),
        ("localhost:99999", "at most 65535"),
        ("127.0.0.1:1,127.0.0.1:65536", "at most 65535"),
    ],
)
def test_several_addresses_that_cannot_be_are_refused_with_the_mend(address: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        heatward.Client(address)


@dataclass(frozen=True)
class Pki:
    """A certificate authority, and servers named "guard.test" that want a client's certificate of it."""

    roots: bytes
    certificate: bytes
    key: bytes
    servers: tuple[FakeServer, ...]


@pytest.fixture(scope="module")
def pki() -> Iterator[Pki]:
    authority = trustme.CA()
    mine, theirs = authority.issue_cert("pipeline.test"), authority.issue_cert("guard.test")
    pair = (theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())
    roots = authority.cert_pem.bytes()
    servers = tuple(FakeServer(grpc.ssl_server_credentials([pair], roots, True)) for _ in range(2))
    yield Pki(roots, mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes(), servers)
    for server in servers:
        server.stop()


@both
async def test_mutual_tls_over_several_addresses(pki: Pki, kind: str) -> None:
    settings = {"tls": pki.roots, "server_name": "guard.test"}
    address = ",".join(server.address for server in pki.servers)
    async with either(kind, address, certificate=pki.certificate, key=pki.key, **settings) as client:
        assert (await client.detect(b"attacked")).attacked
        assert await client.health()
    async with either(kind, address, **settings) as stranger:
        with pytest.raises(heatward.DetectionError, match="UNAVAILABLE"):
            await stranger.detect(b"image")


def test_the_command_line_takes_certificates_as_files(
    pki: Pki, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"roots": pki.roots, "certificate": pki.certificate, "key": pki.key}
    options = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        options += [f"--tls-{name}", str(tmp_path / name)]
    address = pki.servers[0].address
    assert cli.main(["health", "--address", address, *options, "--tls-server-name", "guard.test"]) == 0
    assert cli.main(["health", "--address", address, *options]) == 1  # the certificate is not for 127.0.0.1
    assert capsys.readouterr().out.startswith("SERVING\nNOT_SERVING")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tls": True, "certificate": b"pem"}, "certificate and key go together"),
        ({"certificate": b"pem", "key": b"pem"}, "are for TLS: add tls=True"),
        ({"server_name": "guard.test"}, "are for TLS: add tls=True"),
        ({"tls": True, "address": "10.0.0.1:1,10.0.0.2:1"}, "add server_name="),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        heatward.Client(**settings)  # type: ignore[arg-type]

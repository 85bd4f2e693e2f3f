"""Why no server answers: real failures, and the sentence that both clients raise."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import heatward
import pytest
import trustme
from either import both, either
from fake_servicer import SERVICE, FakeServer
from heatward.client import connection
from heatward.client.diagnosis import diagnose


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retries, which only take time."""
    options = [(name, 0 if name == "grpc.enable_retries" else value) for name, value in connection.OPTIONS]
    monkeypatch.setattr(connection, "OPTIONS", options)
    for variable in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)


class Places:
    """What may listen at an address, beside the server that is meant."""

    def __init__(self) -> None:
        self.authority, self.other = trustme.CA(), trustme.CA()
        issued = self.authority.issue_cert("guard.test")
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
        roots = self.authority.cert_pem.bytes()
        self.plain = FakeServer()
        self.tls = FakeServer(grpc.ssl_server_credentials([pair]))
        self.mutual = FakeServer(grpc.ssl_server_credentials([pair], roots, True))
        self.draining = FakeServer()
        self.draining.set_serving(False, SERVICE)
        self.web = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        self.hung = socket.create_server(("127.0.0.1", 0))

    def close(self) -> None:
        for server in (self.plain, self.tls, self.mutual, self.draining):
            server.stop()
        self.web.shutdown()
        self.web.server_close()
        self.hung.close()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    made = Places()
    yield made
    made.close()


def case(name: str, places: Places) -> tuple[str, dict[str, Any]]:
    roots, name_of = places.authority.cert_pem.bytes(), {"server_name": "guard.test"}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "refused": ("127.0.0.1:1", {}),
        "unresolved": ("no-such-host.invalid:50051", {}),
        "no socket": ("unix:/no/such.sock", {}),
        "plain to TLS": (places.tls.address, {}),
        "TLS to plain": (places.plain.address, {"tls": roots}),
        "untrusted": (places.tls.address, {"tls": places.other.cert_pem.bytes(), **name_of}),
        "wrong name": (places.tls.address, {"tls": roots}),
        "no certificate": (places.mutual.address, {"tls": roots, **name_of}),
        "web": (f"127.0.0.1:{places.web.server_port}", {}),
        "TLS to web": (f"127.0.0.1:{places.web.server_port}", {"tls": True}),
        "hung": (f"127.0.0.1:{places.hung.getsockname()[1]}", {}),
        "TLS to hung": (f"127.0.0.1:{places.hung.getsockname()[1]}", {"tls": True}),
        "draining": (places.draining.address, {}),
    }
    return cases[name]


@both
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("refused", "connection refused"),
        ("unresolved", "cannot be resolved"),
        ("no socket", "no socket"),
        ("plain to TLS", r"expects TLS"),
        ("TLS to plain", "does not speak TLS"),
        ("untrusted", r"not trusted \(unable to get local issuer"),
        ("wrong name", r"another name than 127\.0\.0\.1.*server_name="),
        ("no certificate", "certificate="),
        ("web", "HTTP/1.*metrics port"),
        ("TLS to web", "does not speak TLS"),
        ("hung", "does not answer"),
        ("TLS to hung", "does not answer"),
        ("draining", "says NOT_SERVING"),
    ],
)
async def test_the_cause_is_named(kind: str, name: str, cause: str, places: Places) -> None:
    address, settings = case(name, places)
    async with either(kind, address, timeout_s=30, **settings) as client:
        with pytest.raises(heatward.DetectionError, match=cause) as caught:
            await client.detect(b"image")
    assert caught.value.code == "UNAVAILABLE"
    assert address in caught.value.message
    assert ("heatward serve" in caught.value.message) == (name == "refused")


async def test_a_stream_and_a_health_check_name_it_too(places: Places) -> None:
    address, _ = case("plain to TLS", places)
    async with heatward.AsyncClient(address) as client:
        with pytest.raises(heatward.DetectionError, match="expects TLS"):
            await client.health()
        with pytest.raises(heatward.DetectionError, match=r"expects TLS.*1 image of the stream unanswered"):
            _ = [each async for each in client.detect_stream([b"image"])]


def test_the_proxy_that_stands_between_is_named_and_its_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:hidden@127.0.0.1:1")
    with (
        heatward.Client("guard.example.com:50051") as client,
        pytest.raises(heatward.DetectionError, match=r"variable https_proxy .*no_proxy") as caught,
    ):
        client.detect(b"image")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "details", "said"),
    [
        ("UNIMPLEMENTED", "Method not found!", "no heatward server"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", "HTTP status 404"),
        ("UNAVAILABLE", "Received http2 header with status: 502", "HTTP status 502"),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", "lost before the answer"),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: new words", "new words"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "a.test:1 before the deadline"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 8)", "the answer has 9 bytes, and 8"),
    ],
)
def test_what_grpc_says_is_put_into_words(code: str, details: str, said: str) -> None:
    assert said in diagnose(code, details, address="a.test:1", tls=False)


@pytest.mark.parametrize("details", ["the queue is full", "the server is draining", "", "Socket closed is what I say"])
def test_what_a_server_says_stays_as_it_is(details: str) -> None:
    assert diagnose("RESOURCE_EXHAUSTED", details, address="a.test:1", tls=False) == details


async def test_a_certificate_file_is_named_where_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"tls: cannot read .*missing\.pem"):
        heatward.Client(tls=tmp_path / "missing.pem")


@pytest.mark.parametrize(
    ("name", "settings", "cause"),
    [
        ("tls", {}, "expects TLS"),
        ("plain", {"tls": True}, "speaks? no TLS|does not speak TLS"),
        ("mutual", {"tls": True}, "not trusted"),
    ],
)
def test_localhost_which_is_two_addresses_names_the_cause_too(
    name: str, settings: dict[str, Any], cause: str, places: Places
) -> None:
    address = f"localhost:{getattr(places, name).address.rpartition(':')[2]}"
    with (
        heatward.Client(address, timeout_s=30, **settings) as client,
        pytest.raises(heatward.DetectionError, match=cause) as caught,
    ):
        client.detect(b"image")
    assert "heatward serve" not in caught.value.message
    refused = "connections to all backends failing; last error: UNKNOWN: ipv6:%5B::1%5D:9: Connection refused (111)"
    assert re.search(cause, diagnose("UNAVAILABLE", refused, address=address, tls=bool(settings)))


def test_nothing_at_localhost_is_nothing() -> None:
    refused = "connections to all backends failing; last error: UNKNOWN: ipv6:%5B::1%5D:1: Connection refused (111)"
    assert "nothing listens at localhost:1" in diagnose("UNAVAILABLE", refused, address="localhost:1", tls=False)


def test_a_deadline_that_passes_at_a_proxy_names_it() -> None:
    said = diagnose("DEADLINE_EXCEEDED", "Deadline Exceeded", address="a.test:1", tls=False, proxy="https_proxy")
    assert "environment variable https_proxy" in said


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.1:1"])
def test_a_deadline_that_passes_where_nothing_listens_says_so(address: str) -> None:
    said = diagnose("DEADLINE_EXCEEDED", "Deadline Exceeded", address=address, tls=False)
    assert said.startswith(f"nothing listens at {address}")


def test_a_deadline_that_passes_at_a_server_is_the_servers(places: Places) -> None:
    said = diagnose("DEADLINE_EXCEEDED", "Deadline Exceeded", address=places.plain.address, tls=False)
    assert "before the deadline" in said

"""Every spelling of an address works for both ports, or for neither and says why."""

from __future__ import annotations

import socket
import urllib.request

import grpc
import pytest
from fake_detector import FakeDetector
from heatward.inference import grpc_service_pb2 as pb
from heatward.inference import grpc_service_pb2_grpc as pb_grpc

from detector.errors import ConfigError
from server.addresses import addresses_of, with_port
from server.app import App
from server.config import ServerConfig
from server.load import load_config


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (" 127.0.0.1 ", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "localhost"),
        pytest.param("::1", "[::1]", marks=needs_ipv6),
        pytest.param("[::1]", "[::1]", marks=needs_ipv6),
        pytest.param("0:0:0:0:0:0:0:1", "[::1]", marks=needs_ipv6),
        pytest.param("[::]", "[::]", marks=needs_ipv6),
        pytest.param("::", "[::]", marks=needs_ipv6),
    ],
)
async def test_both_ports_answer_at_the_addresses_of_the_ready_line(serving, spelled: str, shown: str):
    async with serving(host=spelled, metrics_port=0) as served:
        for address in (served.app.address, served.app.metrics_address):
            assert address.rpartition(":")[0] == shown
        async with grpc.aio.insecure_channel(served.app.address) as channel:
            live = await pb_grpc.GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=10)
        assert live.live
        opened = urllib.request.urlopen(f"http://{served.app.metrics_address}/metrics", timeout=10)
        assert b"heatward_ready 1.0" in opened.read()


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("", "expected an address"),
        ("unix:/tmp/heatward.sock", "no socket in the file system"),
        ("http://localhost", "no URL"),
        ("127.0.0.1:50051", "port and metrics_port"),
        ("[::1]:50051", "port and metrics_port"),
        ("localhost:50051", "port and metrics_port"),
        ("*", "0.0.0.0 or"),
        ("127.0.0.1,10.0.0.1", "one address"),
        ("[127.0.0.1]", "one address"),
        ("[::1", "no IPv6 address"),
        ("::zz", "no IPv6 address"),
        ("fe80::1%eth0", "zone"),
    ],
)
def test_what_is_no_host_is_refused_before_anything_starts(spelled: str, said: str):
    with pytest.raises(ConfigError, match=r"^host = ") as caught:
        load_config([f"--host={spelled}"])
    assert said in str(caught.value)


async def test_an_address_of_another_machine_is_refused_for_both():
    app = App(ServerConfig(host="192.0.2.1", port=0, metrics_port=0), lambda path, device: FakeDetector())
    with pytest.raises(OSError, match=r"host = 192\.0\.2\.1 is no address that this machine can listen on"):
        await app.listen()
    await app.close()


def test_a_name_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch):
    def unknown(*given: object, **options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match=r"host = nowhere has no address .Name or service not known"):
        addresses_of("nowhere")


def test_a_name_listens_on_all_its_addresses_the_old_kind_first(monkeypatch: pytest.MonkeyPatch):
    found = [(socket.AF_INET, 1, 6, "", (each, 0)) for each in ("127.0.0.1", "127.0.0.2", "192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: found)
    assert addresses_of("here") == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("metrics", [False, True])
async def test_a_port_that_is_taken_is_named_with_the_systems_reason(metrics: bool):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = {"port": 0, "metrics_port": port} if metrics else {"port": port, "metrics_port": None}
        app = App(ServerConfig(**ports), lambda path, device: FakeDetector())
        with pytest.raises(OSError, match=f"127.0.0.1:{port} .Address already in use.: name another"):
            await app.listen()
        await app.close()


def test_an_address_is_written_as_clients_read_it():
    assert with_port("::1", 5) == "[::1]:5"
    assert with_port("localhost", 5) == "localhost:5"

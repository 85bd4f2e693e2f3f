"""Which servers are reached past an HTTP proxy, and which variable is named where one stands between."""

from __future__ import annotations

from typing import Any

import heatward
import pytest
from either import both, either
from fake_servicer import FakeServer
from heatward.client.proxies import is_direct, proxy_variable
from heatward.client.target import target

NAMES = ("grpc_proxy", "https_proxy", "http_proxy", "GRPC_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*NAMES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)


@both
@pytest.mark.parametrize("variable", NAMES)
async def test_a_server_on_this_machine_is_reached_whatever_is_set(
    server: FakeServer, kind: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    server.set_serving(True)
    port = server.address.rpartition(":")[2]
    for address in (server.address, f"localhost:{port}", f"dns:///localhost:{port}", f"{server.address},127.0.0.1:1"):
        async with either(kind, address) as client:
            assert (await client.detect(b"attacked")).attacked
            assert await client.health()


NEAR = [
    "127.0.0.1:50051", "127.8.9.1:1", "10.1.2.3:1", "172.31.0.1:1", "192.168.1.1:1", "169.254.1.1:1", "100.64.0.9:1",
    "0.0.0.0:1", "[::1]:50051", "::1", "[fd00::5]:1", "[fe80::1%eth0]:1", "[::ffff:10.0.0.1]:1", "[::]:1",
    "localhost:1", "LOCALHOST", "heatward:50051", "heatward", "dns:heatward:50051", "dns:///heatward:50051",
    "dns://10.0.0.53/heatward:50051", "heatward.default.svc:1", "heatward.svc.cluster.local:1", "a.internal:1",
    "box.local.:1", "unix:/run/guard.sock", "unix:///run/guard.sock", "unix-abstract:guard", "ipv4:10.0.0.1:1",
    "8.8.8.8:1,9.9.9.9:1", "nas.lan:1", "nas.home.arpa:1", "localhost.localdomain:1",
]  # fmt: skip
FAR = [
    "8.8.8.8:50051", "172.32.0.1:1", "100.128.0.1:1", "11.0.0.1:1", "[2001:4860::1]:1", "guard.example.com:50051",
    "a.notlan:1", "dns:///guard.example.com:1", "ipv4:8.8.8.8:1", "ipv6:[2001:4860::1]:1", "[::ffff:8.8.8.8]:1",
    "notlocal.org:1",
]  # fmt: skip


@pytest.mark.parametrize("address", NEAR)
def test_near_servers_are_direct(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert is_direct(target(address)[0])
    assert proxy_variable(target(address)[0]) == ""


@pytest.mark.parametrize("address", FAR)
def test_others_go_as_the_environment_says(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = target(address)[0]
    assert not is_direct(place)
    assert proxy_variable(place) == ""
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert proxy_variable(place) == "http_proxy"
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert proxy_variable(place) == "https_proxy"
    monkeypatch.setenv("no_proxy", "example.org, 8.8.8.8,guard.EXAMPLE.com,::1,.32.0.1,0.1,notlocal.org,::ffff:8.8.8.8")
    assert proxy_variable(place) in ("", "https_proxy")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert proxy_variable(place) == "https_proxy"


@pytest.mark.parametrize(
    ("excepted", "variable"),
    [("example.com", ""), (".example.com,x", ""), ("example.org", "http_proxy"), ("", "http_proxy")],
)
def test_no_proxy_is_respected(excepted: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert proxy_variable("guard.example.com:50051") == variable


@both
async def test_a_far_server_in_no_proxy_is_not_said_to_be_behind_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    settings: dict[str, Any] = {"timeout_s": 30}
    async with either(kind, "guard.invalid:50051", **settings) as client:
        with pytest.raises(heatward.DetectionError, match=r"http_proxy.*no_proxy"):
            await client.detect(b"image")
    monkeypatch.setenv("no_proxy", "guard.invalid")
    async with either(kind, "guard.invalid:50051", **settings) as client:
        with pytest.raises(heatward.DetectionError, match="cannot be resolved"):
            await client.detect(b"image")


@pytest.mark.parametrize(
    "proxy", ["https://127.0.0.1:1", "user:hidden@127.0.0.1:1", "proxy:3128", "http://", "http://[x", "x"]
)
def test_a_proxy_that_grpc_ignores_is_not_blamed(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")  # behind it: gRPC looks at the first only
    assert proxy_variable("guard.example.com:1") == ""


@pytest.mark.parametrize(
    ("address", "excepted"),
    [("203.0.113.7:1", True), ("203.0.114.7:1", False), ("[2001:db8::1]:1", True), ("guard.example.com:1", False)],
)
def test_no_proxy_may_hold_networks(address: str, excepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "203.0.113.0/24, 2001:db8::/32")
    assert proxy_variable(address) == ("" if excepted else "https_proxy")

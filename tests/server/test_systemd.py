from __future__ import annotations

import asyncio
import configparser
import os
import signal
import socket
from pathlib import Path

import pytest
from fake_detector import FakeDetector

from server.app import serve
from server.config import ServerConfig
from server.observers.systemd import notify

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "heatward.service"


def received(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


@pytest.mark.parametrize("abstract", [False, True])
def test_states_reach_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool):
    name = f"@heatward-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if abstract else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=serving")
        assert received(listener) == ["READY=1", "STATUS=serving"]


def test_without_systemd_or_with_a_dead_one_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


async def test_a_server_says_ready_when_it_serves_and_stopping_when_it_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake = FakeDetector()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        server = asyncio.create_task(serve(ServerConfig(port=0, metrics_port=None), lambda path, device: fake))
        states = await asyncio.to_thread(received, listener)
        assert states[0] == "READY=1"
        assert states[1].startswith("STATUS=serving on 127.0.0.1:")
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.to_thread(received, listener) == ["STOPPING=1"]
        assert await asyncio.wait_for(server, 20) == 0


def test_the_unit_waits_longer_than_the_server_drains():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"].startswith("notify")
    assert float(service["TimeoutStopSec"]) > ServerConfig.model_fields["drain_grace_s"].default
    assert service["ExecStart"].split()[1] == "serve"

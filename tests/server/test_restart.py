"""The server is killed under load and started again on its port: the client's retries lose nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import heatward
from sample_requests import picture, png
from test_lifecycle import scrape, start

CALLS = 16


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def started(gate: Path, port: int) -> tuple[asyncio.subprocess.Process, str]:
    """A server on this port, and the address of its metrics."""
    process = await start(str(gate), port=port)
    assert process.stdout
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    return process, str(ready["metrics_address"])


async def in_flight(metrics: str) -> int:
    lines = (await scrape(metrics)).splitlines()
    return next(round(float(line.split()[1])) for line in lines if line.startswith("heatward_in_flight_requests "))


async def killed(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


async def test_two_kills_lose_no_call(tmp_path: Path):
    gate, port = tmp_path / "gate", free_port()
    async with heatward.AsyncClient(f"127.0.0.1:{port}", timeout_s=120, wait_for_ready=True) as client:

        async def ask(label: int) -> int:
            return (await client.detect(png(picture(label)))).predicted.index

        for first in (20, 60):  # the second kill meets a client that has been through one
            process, metrics = await started(gate, port)
            calls = [asyncio.create_task(ask(label)) for label in range(first, first + CALLS)]
            while await in_flight(metrics) < CALLS:
                await asyncio.sleep(0.02)
            await killed(process)
            assert not any(call.done() for call in calls)
            process, _ = await started(gate, port)
            gate.touch()
            assert await asyncio.gather(*calls) == list(range(first, first + CALLS))
            gate.unlink()
            await killed(process)


async def test_of_two_servers_one_may_be_killed(tmp_path: Path):
    gate, ports = tmp_path / "gate", (free_port(), free_port())
    servers = await asyncio.gather(*(started(gate, port) for port in ports))
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    async with heatward.AsyncClient(addresses, timeout_s=60) as client:

        async def ask(label: int) -> int:
            return (await client.detect(png(picture(label)))).predicted.index

        calls = [asyncio.create_task(ask(label)) for label in range(20, 20 + CALLS)]
        shares = [0]
        while sum(shares) < CALLS:  # the first calls all go to the server that was connected first
            await asyncio.sleep(0.02)
            shares = [await in_flight(metrics) for _, metrics in servers]
        victim = shares.index(max(shares))
        await killed(servers[victim][0])
        gate.touch()
        assert await asyncio.gather(*calls) == list(range(20, 20 + CALLS))
    await killed(servers[1 - victim][0])

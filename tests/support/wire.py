"""A relay between client and server, and what an HTTP/2 server says first: to see what travels, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # and empty settings
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3


class Relay:
    """Passes bytes on and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self.answered_bytes = 0
        self.address = ""


@asynccontextmanager
async def relay_to(address: str) -> AsyncGenerator[Relay]:
    relay = Relay()
    host, _, port = address.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await reader.read(2**16):
                relay.answered_bytes += len(data) if answers else 0
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay.connections += 1
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        for direction in (pump(reader, server_writer, False), pump(server_reader, writer, True)):
            task = asyncio.create_task(direction)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connect, "127.0.0.1", 0)
    relay.address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def frames(address: str) -> AsyncGenerator[tuple[int, bytes]]:
    """Type and payload of the HTTP/2 frames that the server sends to a client who says nothing."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(PREFACE)
        while True:
            head = await reader.readexactly(9)
            yield head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))
    finally:
        writer.close()


async def checked(address: str, times: int, every_s: float) -> bytes:
    """Checks an idle connection for life so often; what the server says when it ends it, or b"" where it does not."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answered = 0
    try:
        writer.write(PREFACE)
        while answered < times:
            head = await reader.readexactly(9)
            kind, flags = head[3:5]
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == GOAWAY:
                return payload
            answered += (kind, flags) == (PING, 1)
            if kind == PING or (kind, flags) == (SETTINGS, 0):
                await asyncio.sleep(every_s)
                writer.write(b"\0\0\x08" + bytes([PING]) + bytes(5) + bytes(8))
    finally:
        writer.close()
    return b""


def settings(payload: bytes) -> dict[int, int]:
    pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    return {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}

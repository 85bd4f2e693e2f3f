"""Clients that break HTTP/2 (RFC 9113), by hand on a socket: silence, cut connections, shut windows, floods of frames.

What the server answers is of no interest here, only that it outlives it: other calls are answered meanwhile, and
nothing of these connections stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM = ACK = 1
END_HEADERS = 4
NO_WINDOW = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE = 0: the server may send no message

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Trouble = Callable[["Wire", random.Random], Awaitable[None]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(data: bytes) -> bytes:
    """As gRPC frames it: uncompressed, behind its length."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class Wire:
    """Where to connect, and how to look like a caller who is let in.

    Args:
        address: Of the server.
        token: Sent in the headers.
        request: A serialised DetectRequest that is answered, for what is well-formed.
    """

    def __init__(self, address: str, token: str, request: bytes) -> None:
        self.host, _, port = address.rpartition(":")
        self.port, self.token, self.request = int(port), token, request

    @contextlib.asynccontextmanager
    async def connect(self, *, greet: bool = True, reset: bool = False) -> AsyncIterator[Connection]:
        """A connection; `greet` sends preface and empty settings, `reset` ends it with an RST in place of a FIN."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        try:
            if greet:
                writer.write(PREFACE + frame(SETTINGS))
            with contextlib.suppress(ConnectionError):
                yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def headers(self, stream: int, method: str = "DetectStream") -> bytes:
        """A HEADERS frame, its fields literal (RFC 7541, section 6.2.2)."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/heatward.v1.DetectionService/{method}",
            ":authority": self.host,
            "content-type": "application/grpc",
            "te": "trailers",
            "authorization": f"Bearer {self.token}",
        }
        block = b"".join(
            bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        return frame(HEADERS, END_HEADERS, stream, block)


async def silence(wire: Wire, rng: random.Random) -> None:
    """Connects, says nothing or half a preface, and stays for a while."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(30):
            _, writer = await stack.enter_async_context(wire.connect(greet=rng.random() < 0.3))
            writer.write(PREFACE[: rng.randrange(len(PREFACE))])
        await asyncio.sleep(rng.uniform(2, 8))


async def cut(wire: Wire, rng: random.Random) -> None:
    """Ends connections in the middle of a frame, a header block or a message."""
    whole = wire.headers(1) + frame(DATA, 0, 1, message(wire.request))
    for _ in range(20):
        async with wire.connect(reset=rng.random() < 0.5) as (_, writer):
            writer.write(whole[: rng.randrange(1, len(whole))])
            await writer.drain()
            await asyncio.sleep(rng.choice((0, 0.05)))


async def shut_window(wire: Wire, rng: random.Random) -> None:
    """Streams requests for as long as the server reads them, and never opens the window for an answer."""
    async with wire.connect() as (_, writer):
        writer.write(frame(SETTINGS, 0, 0, NO_WINDOW))
        for stream in range(1, 41, 2):
            writer.write(wire.headers(stream))
            writer.write(frame(DATA, 0, stream, message(wire.request)) * 100)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(writer.drain(), 2)
        await asyncio.sleep(rng.uniform(2, 8))


async def garbage(wire: Wire, rng: random.Random) -> None:
    """Frames that are none, too long, on streams that are not there, or full of nonsense."""
    bad = [
        rng.randbytes(2000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 99, b"x"),
        frame(HEADERS, END_HEADERS, 1, rng.randbytes(200)),
        (2**24 - 1).to_bytes(3, "big") + bytes([DATA, 0]) + bytes([0, 0, 0, 1]) + bytes(1000),
        frame(SETTINGS, 0, 0, rng.randbytes(rng.choice((5, 6, 60)))),
        frame(WINDOW_UPDATE, 0, 0, bytes(4)),
        wire.headers(1) + frame(DATA, END_STREAM, 1, b"\0\xff\xff\xff\xff" + bytes(100)),  # a message of 4 GiB
        wire.headers(1) + frame(DATA, END_STREAM, 1, b"\7" + bytes(30)),
        wire.headers(1) + frame(DATA, END_STREAM, 1, message(rng.randbytes(300))),
        frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 1000) * 50,
    ]
    for data in bad:
        for greet in (True, False):
            async with wire.connect(greet=greet) as (_, writer):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0.02)


async def frame_flood(wire: Wire, rng: random.Random) -> None:
    """Rapid reset (CVE-2023-44487), pings, settings: cheap to send, dear to answer."""
    async with wire.connect() as (reader, writer):
        floods = [
            b"".join(wire.headers(n) + frame(RST_STREAM, 0, n, bytes(4)) for n in range(1, 1001, 2)),
            frame(PING, 0, 0, bytes(8)) * 1000,
            frame(SETTINGS, 0, 0, NO_WINDOW) * 1000,
        ]
        writer.write(rng.choice(floods))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(writer.drain(), 2)
            await asyncio.wait_for(reader.read(), 1)


TROUBLES: dict[str, Trouble] = {
    each.__name__.replace("_", " "): each for each in (silence, cut, shut_window, garbage, frame_flood)
}

"""One engine for each device, behind one queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch

from detector.errors import ConfigError
from server.inference.engine import Engine

__all__ = ["Engines", "devices_of"]


def devices_of(setting: Sequence[str]) -> list[str]:
    """The devices that the setting names; "auto": every CUDA device, else the CPU.

    Raises:
        ConfigError: One is not there.
    """
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    named = [device for name in setting for device in ((there or ["cpu"]) if name == "auto" else [name])]
    for device in named:
        if device not in ("cpu", *there) and not (device == "cuda" and there):
            raise ConfigError(f"device = {device!r}: this machine has {', '.join(['cpu', *there])}; name one of those")
    return named


class Engines:
    """The engines of a server.

    Args:
        engines: By their number.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self.stopped: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        """None after the queue was closed and drained; else what ended an engine, and with it the queue."""
        for engine in self._engines:
            engine.stopped.add_done_callback(self._on_stopped)

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    def join(self, timeout_s: float) -> None:
        """Waits for the engines to end, each for so long at most."""
        for engine in self._engines:
            if engine.is_alive():
                engine.join(timeout_s)

    def _on_stopped(self, engine: asyncio.Future[BaseException | None]) -> None:
        cause = engine.result()
        if not self.stopped.done() and (cause is not None or all(each.stopped.done() for each in self._engines)):
            self.stopped.set_result(cause)

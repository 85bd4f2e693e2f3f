"""One engine a device behind one queue; and a detector on disk → **a warm one on each of the devices**."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

import torch

from detector.detector import Detector
from detector.errors import ConfigError
from server.inference.engine import Engine
from server.inference.latency_model import Pace
from server.inference.warm_up import Warm, warm_up

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
        devices: One engine each.
        make: Makes the engine of that number.
        threads: Torch threads on the CPU, for warming up.
        max_batch: Most images in a batch.
        batch_goal_s: What a batch may take, but for one of a hundred.
    """

    def __init__(
        self,
        devices: Sequence[str],
        make: Callable[[int], Engine],
        *,
        threads: int,
        max_batch: int,
        batch_goal_s: float,
    ) -> None:
        self._devices = devices
        self._engines = [make(number) for number in range(len(devices))]
        self._threads = threads
        self._max_batch = max_batch
        self._batch_goal_s = batch_goal_s
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        """None after the queue was closed and drained; else what ended an engine, and with it the queue."""
        for engine in self._engines:
            engine.stopped.add_done_callback(self._on_stopped)

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    def warm(self, load: Callable[[str], Detector]) -> Warm:
        """Loads a detector onto each device and makes it ready. Blocks; call it from a thread of its own."""
        torch.set_num_threads(self._threads)  # OpenMP keeps the number per thread: set it on each that computes
        detectors: list[Detector] = []
        paces: list[Pace] = []
        for device in self._devices:
            detectors.append(load(device))
            paces.append(warm_up(detectors[-1], self._max_batch, self._batch_goal_s))
        return Warm(tuple(detectors), paces[0])

    def warm_soon(self, load: Callable[[str], Detector]) -> asyncio.Future[Warm]:
        """`warm` on a thread of its own, which the end of the process does not wait for. Call it on the event loop."""
        warm: asyncio.Future[Warm] = self._loop.create_future()

        def tell(result: Warm | BaseException) -> None:
            if warm.done():
                return
            if isinstance(result, Warm):
                warm.set_result(result)
            else:
                warm.set_exception(result)
                warm.exception()  # asked for here, so that asyncio does not warn where nobody waits

        def work() -> None:
            try:
                result: Warm | BaseException = self.warm(load)
            except BaseException as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever asked
                self._loop.call_soon_threadsafe(tell, result)

        threading.Thread(target=work, name="heatward-load", daemon=True).start()
        return warm

    def join(self, timeout_s: float) -> None:
        """Waits for the engines to end, each for so long at most."""
        for engine in self._engines:
            if engine.is_alive():
                engine.join(timeout_s)

    def _on_stopped(self, engine: asyncio.Future[BaseException | None]) -> None:
        cause = engine.result()
        if not self.stopped.done() and (cause is not None or all(each.stopped.done() for each in self._engines)):
            self.stopped.set_result(cause)

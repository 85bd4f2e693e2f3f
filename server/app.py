"""From a `ServerConfig` to a process that serves: assemble ─▶ load and warm up ─▶ SERVING ─▶ signal ─▶ drain ─▶ exit.

The exit status says how it ended: 0 after a drain, 1 when the detector could not be loaded, a port was taken, the
engine died, or calls were still open when the grace was over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import torch
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from heatward.v1 import detection_pb2_grpc

from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.errors import HeatwardError
from server.answers import describe
from server.batcher import Batcher
from server.calls import Calls
from server.config import ServerConfig
from server.engine import Engine
from server.health import HEALTH, SERVICE, Health
from server.judge import Judge
from server.logs import log_to_stderr
from server.metrics import Metrics
from server.service import DetectionService

try:
    from uvloop import new_event_loop
except ImportError:  # not on Windows
    from asyncio import new_event_loop  # type: ignore[assignment]

__all__ = ["App", "load_detector", "run", "serve"]

log = logging.getLogger("heatward.app")

CLOSE_S = 10.0


def run(config: ServerConfig, load: Callable[[ServerConfig], Detector] | None = None) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: All settings.
        load: Makes the detector; by default from `config.bundle`.

    Returns:
        The process' exit status.
    """
    log_to_stderr(config.log_level)
    torch.set_num_threads(config.threads)
    torch.set_num_interop_threads(1)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(config, load or load_detector))
    except (HeatwardError, OSError) as error:
        log.error(str(error), extra={"error": type(error).__name__})
        return 1
    except Exception as error:
        log.critical("the server failed", exc_info=error)
        return 1


def load_detector(config: ServerConfig) -> Detector:
    """Loads the configured bundle, or the embedded one, onto the configured device."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Detector.from_bundle(config.bundle or EMBEDDED, device=device, allow=config.trusted)


class App:
    """The parts of a server, wired: queue, engine, service, health, reflection, metrics.

    Args:
        config: All settings.
        load: Makes the detector; called on the engine thread.
    """

    def __init__(self, config: ServerConfig, load: Callable[[ServerConfig], Detector]) -> None:
        self._config = config
        self.metrics = Metrics()
        self.batcher = Batcher(
            max_batch=config.max_batch,
            capacity=config.queue_items,
            linger_s=config.linger_ms / 1e3,
            on_drop=self.metrics.dropped,
        )
        self.engine = Engine(
            lambda: load(config),
            self.batcher,
            threads=config.threads,
            thorough_batch=config.thorough_batch,
            thorough_queue=config.thorough_queue,
            on_batch=self.metrics.batch,
            on_second_look=self.metrics.second_look,
        )
        self.calls = Calls(config.default_deadline_s, self.metrics)
        self._judge = Judge(config, self.batcher, self.metrics)
        self._service = DetectionService(config, self._judge, self.calls)
        self._health = Health(self.metrics)
        self.metrics.watch(lambda: self.batcher.pending, lambda: self.calls.in_flight)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent neighbour
            ]
        )
        detection_pb2_grpc.add_DetectionServiceServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), self._server)
        self._endpoints = ExitStack()
        self.address = ""
        self.metrics_address = ""

    async def listen(self) -> None:
        """Opens the ports, NOT_SERVING yet, and starts to load the detector.

        Raises:
            OSError: A port is taken or the host is not ours.
        """
        config = self._config
        host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
        await self._health.serving(False)
        try:
            port = self._server.add_insecure_port(f"{host}:{config.port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{config.port}: is the port in use?") from error
        self.address = f"{host}:{port}"
        metrics_port = self._endpoints.enter_context(self.metrics.endpoint(config.host, config.metrics_port))
        self.metrics_address = "" if metrics_port is None else f"{host}:{metrics_port}"
        await self._server.start()
        self.engine.start()

    async def begin(self) -> None:
        """Says SERVING once the engine is warm.

        Raises:
            HeatwardError: The detector cannot be loaded, or cannot promise the default false-positive rate.
        """
        detector = await self.engine.ready
        loaded = describe(detector, (self._config.bundle or EMBEDDED).stem, self._config)
        self.metrics.detector(loaded.info.version, loaded.info.classifier.source, loaded.info.classifier.fingerprint)
        self._judge.load(loaded)
        await self._health.serving(True)

    async def drain(self, grace_s: float) -> bool:
        """Says NOT_SERVING, refuses new calls, and answers those in flight.

        Returns:
            Whether all were answered before the grace was over.
        """
        started_s = time.monotonic()
        await self._health.enter_graceful_shutdown()
        self._service.drain()
        self.engine.hurry(started_s + grace_s)
        idle = not self.calls.in_flight
        await self._server.stop(grace_s)
        return idle or time.monotonic() - started_s < grace_s

    async def close(self) -> None:
        """Ends what still runs; harmless where `drain` went before."""
        await self._server.stop(None)
        self.batcher.close()
        self._judge.close()
        if self.engine.is_alive():
            await asyncio.to_thread(self.engine.join, CLOSE_S)
        self._endpoints.close()


async def serve(config: ServerConfig, load: Callable[[ServerConfig], Detector]) -> int:
    """Serves until a signal comes or the engine dies; returns the exit status."""
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    app = App(config, load)
    try:
        await app.listen()
        stop = asyncio.ensure_future(signalled.wait())
        await _first(stop, app.engine.ready)
        if app.engine.ready.done():
            await app.begin()
            _announce(app)
        await _first(stop, app.engine.stopped)
        died = app.engine.stopped.done()
        if died:
            log.critical("the engine died: the server stops", exc_info=app.engine.stopped.result())
        log.info("draining", extra={"grace_s": config.drain_grace_s})
        answered = await app.drain(config.drain_grace_s)
        log.info("stopped", extra={"all_answered": answered})
        return 0 if answered and not died else 1
    finally:
        await app.close()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _announce(app: App) -> None:
    ready = {"event": "ready", "address": app.address, "metrics_address": app.metrics_address}
    print(json.dumps(ready), flush=True)
    log.info("serving", extra={"address": app.address, "metrics_address": app.metrics_address})

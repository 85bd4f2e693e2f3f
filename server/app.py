"""From a `ServerConfig` to a process that serves: assemble ─▶ load and warm up ─▶ SERVING ─▶ signal ─▶ drain ─▶ exit.

The exit status says how it ended: 0 after a drain, 1 when the detector could not be loaded, a port was taken, an
engine died, or calls were still open when the grace was over, 2 when a setting or a file that it names is wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from heatward.cli.exit_codes import ExitCode
from heatward.inference import grpc_service_pb2, grpc_service_pb2_grpc
from heatward.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    detection_pb2,
    detection_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
)

from detector.cpus import available_cpus
from detector.detector import Detector
from detector.errors import ConfigError, HeatwardError
from server.access.disclosure import Disclosure
from server.access.tls import credentials
from server.access.tokens import Tokens, warn_of_unknown
from server.addresses import addresses_of, taken, with_port
from server.config import ServerConfig
from server.inference.batcher import Batcher
from server.inference.engine import Engine
from server.inference.engines import Engines, devices_of
from server.inference.observer import Observers
from server.inference.pipeline import Pipeline
from server.logs import log_to_stderr
from server.models.keys import trusted_keys
from server.models.registry import ModelRegistry
from server.models.reload import Load, Outcome, Reloader
from server.models.upstream_classifier import asked_upstream, trusted
from server.observers.events import Events
from server.observers.exporter import open_traces
from server.observers.metrics import Metrics
from server.observers.queries import open_queries
from server.observers.recording import open_flagged, open_recorder
from server.observers.shadow import Shadow
from server.observers.statistics import Statistics
from server.observers.systemd import notify
from server.observers.untold import Untold
from server.protocols.admin import AdminService
from server.protocols.detection.service import DetectionService
from server.protocols.guard.proxy import Guard
from server.protocols.guard.upstream import Upstream
from server.protocols.kserve.service import InferenceService
from server.surroundings import unusable
from server.transport.authentication import Authentication
from server.transport.channel import COMPRESSION, channel_options, warn_where_open
from server.transport.health import Health
from server.transport.messages import Messages
from server.transport.parts import most_parts
from server.transport.reflection import reflect
from server.transport.rpc_contexts import RpcContexts
from server.transport.streams import Streams

try:
    from uvloop import new_event_loop
except ImportError:  # not on Windows
    from asyncio import new_event_loop  # type: ignore[assignment]

__all__ = ["App", "load_detector", "run", "serve"]

log = logging.getLogger("heatward.app")

CLOSE_S = 10.0
LAST_ARRIVALS_S = 0.5


def run(config: ServerConfig, load: Load | None = None, *, passed_over: Sequence[str] = ()) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: All settings.
        load: Makes a detector from a bundle; a test's own.
        passed_over: Variables of the environment that are no settings, for the log.

    Returns:
        The process' exit status.
    """
    log_to_stderr(config.log_level)
    if passed_over:
        log.info("variables of Kubernetes and others are passed over", extra={"variables": list(passed_over)})
    torch.set_num_threads(config.threads)
    torch.set_num_interop_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # p-values are ranks among scores of float32
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(config, load or partial(load_detector, config)))
    except (HeatwardError, OSError) as error:
        log.error(str(error), extra={"error": type(error).__name__})
        return ExitCode.FAILED
    except Exception as error:
        log.critical("the server failed", exc_info=error)
        return ExitCode.FAILED


def load_detector(config: ServerConfig, path: Path, device: str) -> Detector:
    """Loads a bundle onto a device."""
    placed = partial(asked_upstream, config)
    return Detector.from_bundle(path, device=device, allow=trusted(config), placed=placed, keys=trusted_keys(config))


class App:
    """The parts of a server, wired: queue, engines, service, health, reflection, metrics.

    Args:
        config: All settings.
        load: Makes a detector from a bundle; called on a thread of its own.

    Raises:
        ConfigError: The certificates, tokens or keys cannot be used.
    """

    def __init__(self, config: ServerConfig, load: Load) -> None:
        self._config = config
        trusted_keys(config)
        try:
            self.metrics = Metrics()
        except OSError as error:
            raise unusable(error) from error
        self._statistics = Statistics()
        self._traces = open_traces(config.otlp_endpoint)
        devices = devices_of(config.device)
        observers = Observers(self.metrics, self._statistics, Untold())
        if self._traces is not None:
            observers.add(self._traces)
        self.batcher = Batcher(
            engines=len(devices),
            capacity=config.queue_items,
            capacity_bytes=config.queue_bytes,
            linger_s=config.linger_ms / 1e3,
            on_drop=observers.dropped,
        )
        self._pipeline = Pipeline(config, self.batcher, observers)
        self.engines = Engines(
            [
                Engine(
                    self.batcher,
                    number,
                    device=device,
                    threads=config.threads,
                    keep_evidence=config.record_folder is not None and config.record_evidence,
                    deliver=self._pipeline.deliver,
                    on_batch=observers.computed,
                )
                for number, device in enumerate(devices)
            ]
        )
        self._registry = ModelRegistry(config.canary_weight if config.canary else 0.0)
        self.reloader = Reloader(config, load, devices, self._registry, self.metrics.reload, self.metrics.serves)
        self._shadow = Shadow(self._registry, self._pipeline, config.default_deadline_s, self.metrics.shadowed)
        observers.add(self._shadow)
        self._recorder = open_recorder(config, self.metrics)
        flagged = open_flagged(config, self.metrics)
        alerted = [each.alerted for each in flagged if isinstance(each, Events)]
        found = (open_queries(config, self.metrics, alerted), self._recorder, *flagged)
        self._writers = [each for each in found if each is not None]  # closed in this order: the first alerts the last
        for writer in self._writers:
            observers.add(writer)
        self.rpcs = RpcContexts(config.default_deadline_s, observers, Disclosure(config.disclosure))
        self._streams = Streams()
        self._health = Health(self.metrics.ready)
        parts = config, self._registry, self._pipeline, self.rpcs, self._streams
        inference = InferenceService(*parts, lambda: self._health.ready, self._statistics)
        self.metrics.watch(lambda: self.batcher.pending, lambda: self.rpcs.in_flight)
        self._credentials = credentials(config, self.metrics.reload)
        interceptors: list[grpc.aio.ServerInterceptor] = [
            Messages(config.max_message_bytes, self.rpcs, most_parts(config.images_per_call))
        ]
        tokens = None if config.token_file is None else Tokens(config.token_file, self.metrics.reload)
        if tokens is not None:
            interceptors.insert(0, Authentication(tokens, self.rpcs))
        warn_of_unknown(config, tokens)
        self._server = grpc.aio.server(
            interceptors=interceptors, options=channel_options(config), compression=COMPRESSION[config.compression]
        )
        detection_pb2_grpc.add_DetectionServiceServicer_to_server(DetectionService(*parts), self._server)  # type: ignore[no-untyped-call]
        self._upstream = Upstream(config) if config.upstream else None
        self._guard: Guard | None = None
        if self._upstream is not None:  # in front of `inference`: the first handler that knows a method answers
            self._guard = Guard(*parts, self.metrics.guarded, inference, self._upstream)
            self._server.add_generic_rpc_handlers((self._guard,))
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, self._server)  # type: ignore[no-untyped-call]
        if config.admin:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(  # type: ignore[no-untyped-call]
                AdminService(*parts, self.reloader), self._server
            )
        if self._recorder is not None:
            from server.protocols.feedback import FeedbackService

            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(  # type: ignore[no-untyped-call]
                FeedbackService(*parts, self._recorder, self.metrics.labelled), self._server
            )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        contracts = [detection_pb2.DESCRIPTOR, *([admin_pb2.DESCRIPTOR] if config.admin else [])]
        contracts += [feedback_pb2.DESCRIPTOR] if self._recorder is not None else []
        reflect(self._server, *contracts, grpc_service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
        self._endpoints = ExitStack()
        self.address = ""
        self.metrics_address = ""
        self._watching: asyncio.Task[None] | None = None
        self._reloading: asyncio.Future[list[Outcome]] | None = None  # kept, or it might be forgotten halfway

    async def listen(self) -> None:
        """Opens the ports, NOT_SERVING yet, and starts to load the detector.

        Raises:
            OSError: A port is taken or the host is not ours.
        """
        config = self._config
        addresses = addresses_of(config.host)
        await self._health.serving(False)
        warn_where_open(config)
        port = config.port
        for address in addresses:
            port = self._open(address, port)
        self.address = with_port(config.host, port)
        metrics_port = self._endpoints.enter_context(self.metrics.endpoint(addresses, config.metrics_port))
        self.metrics_address = "" if metrics_port is None else with_port(config.host, metrics_port)
        await self._server.start()
        self.engines.start()

    def _open(self, address: str, port: int) -> int:
        place = with_port(address, port)
        try:
            if self._credentials is None:
                return int(self._server.add_insecure_port(place))
            return int(self._server.add_secure_port(place, self._credentials))
        except RuntimeError as error:
            why = taken(address, port) or str(error)
            raise OSError(f"cannot listen on {place} ({why}): name another port or host") from error

    async def begin(self) -> None:
        """Loads the detectors and says SERVING.

        Raises:
            HeatwardError: One cannot be loaded, or cannot promise the default false-positive rate.
        """
        await self.reloader.start()
        await self._health.serving(True)
        if self._config.watch_s:
            self._watching = asyncio.create_task(self.reloader.watch(self._config.watch_s))

    def reload_soon(self) -> None:
        """Reloads what has changed, and does not wait for it."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._reloading = asyncio.ensure_future(self.reloader.reload())
        self._reloading.add_done_callback(lambda _: notify("READY=1"))

    async def drain(self, grace_s: float) -> bool:
        """Says NOT_SERVING, refuses new calls, answers those in flight, and logs what it could not answer.

        Returns:
            Whether all were answered before the grace was over.
        """
        started_s = time.monotonic()
        await self._health.enter_graceful_shutdown()
        self._streams.drain(started_s + grace_s / 2)
        await self.rpcs.refuse_new(min(LAST_ARRIVALS_S, grace_s))
        stopping = asyncio.ensure_future(self._server.stop(2 * grace_s + CLOSE_S))  # longer than we let it
        await asyncio.wait({stopping}, timeout=started_s + grace_s - time.monotonic())
        calls, images = (0, 0) if stopping.done() else await self.rpcs.cut(self._server.stop(None))
        await stopping
        if self._guard is not None:
            await self._guard.judged(started_s + grace_s - time.monotonic())
        left = {"streams_cut": self._streams.cut, "calls_cut": calls, "images_unanswered": images}
        answered = not any(left.values())
        log.log(logging.INFO if answered else logging.WARNING, "stopped", extra={"all_answered": answered, **left})
        return not calls

    async def close(self) -> None:
        """Ends what still runs; harmless where `drain` went before."""
        if self._watching is not None:
            self._watching.cancel()
        await self._server.stop(None)
        if self._upstream is not None:
            await self._upstream.close()
        self.batcher.close()
        self._shadow.close()
        self._pipeline.close()
        await asyncio.to_thread(self.engines.join, CLOSE_S)
        for writer in self._writers:
            await asyncio.to_thread(writer.close)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        self._endpoints.close()


async def serve(config: ServerConfig, load: Load) -> int:
    """Serves until a signal comes or the engine dies; returns the exit status."""
    signalled = asyncio.Event()
    workers = ThreadPoolExecutor(min(32, available_cpus() + 4), "heatward-aside")  # asyncio's own counts every core
    asyncio.get_running_loop().set_default_executor(workers)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    try:
        app = App(config, load)
    except ConfigError as error:
        log.error(str(error), extra={"error": "ConfigError"})
        return ExitCode.MISTAKE
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload_soon)
    try:
        await app.listen()
        stop = asyncio.ensure_future(signalled.wait())
        begun = asyncio.ensure_future(app.begin())
        await _first(stop, begun)
        if begun.done():
            begun.result()
            _announce(app)
            notify("READY=1", f"STATUS=serving on {app.address}")
        await _first(stop, app.engines.stopped)
        died = app.engines.stopped.done()
        if died:
            log.critical("an engine died: the server stops", exc_info=app.engines.stopped.result())
        notify("STOPPING=1")
        log.info("draining", extra={"grace_s": config.drain_grace_s})
        answered = await app.drain(config.drain_grace_s)
        return ExitCode.OK if answered and not died else ExitCode.FAILED
    finally:
        await app.close()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _announce(app: App) -> None:
    ready = {"event": "ready", "address": app.address, "metrics_address": app.metrics_address}
    print(json.dumps(ready), flush=True)
    log.info("serving", extra={"address": app.address, "metrics_address": app.metrics_address})

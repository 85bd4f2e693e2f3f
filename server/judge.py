"""The road of one image, whatever the protocol that it came by.

DetectRequest ─▶ validate ─▶ a place in the queue ─▶ decode (thread pool) ─▶ batcher ⇄ engine ─▶ Verdict
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch
from heatward.v1 import detection_pb2 as pb

from detector.errors import HeatwardError
from server.answers import Loaded, to_verdict
from server.batcher import Batcher
from server.bundles.shadow import Shadow
from server.bundles.versions import Role, Versions
from server.calls import Call
from server.config import Effort, ServerConfig
from server.errors import ExpiredError
from server.overlay import overlay_png
from server.requests import parse, prepare
from server.telemetry.metrics import Metrics

__all__ = ["Judge"]

SMALL_BYTES = 2**16  # raw pixels of the right size: quicker used here than sent to another thread

P = ParamSpec("P")
T = TypeVar("T")


class Judge:
    """Gives verdicts.

    Args:
        config: Limits and defaults.
        versions: The detectors.
        batcher: The queue to the engine.
        metrics: What is counted.
    """

    def __init__(self, config: ServerConfig, versions: Versions, batcher: Batcher, metrics: Metrics) -> None:
        self._config = config
        self._versions = versions
        self._batcher = batcher
        self._metrics = metrics
        self._shadow = Shadow(metrics)
        # A decode thread must not spread one image over the cores that the model computes on.
        self._pool = ThreadPoolExecutor(config.decode_workers, "heatward-decode", lambda: torch.set_num_threads(1))

    def close(self) -> None:
        self._shadow.close()
        self._pool.shutdown(cancel_futures=True)

    async def verdict(self, request: pb.DetectRequest, path: str, call: Call) -> pb.Verdict:
        """Judges one image.

        Args:
            request: The image and its options.
            path: Where it stands in the call's message, for errors: "" or "requests[3].".
            call: That it came in.

        Raises:
            HeatwardError: There is no verdict; its `code` says why.
        """
        started_s = time.monotonic()
        try:
            call.quota.take()
            loaded = self._versions.choose(request.detector_version)
            verdict, asked = await self._walk(request, path, call, loaded)
        except (Exception, asyncio.CancelledError) as error:
            code = error.code if isinstance(error, HeatwardError) else "INTERNAL"
            if isinstance(error, asyncio.CancelledError):
                code = "CANCELLED"
            self._metrics.failed_image(code, error)
            call.trace.failed_image(time.monotonic() - started_s, code)
            raise
        self._metrics.image(verdict, asked)
        call.trace.image(verdict)
        shadow = self._versions.get(Role.SHADOW)
        if shadow is not None and shadow is not loaded:
            self._shadow.compare(verdict, lambda: self._again(request, verdict, call, shadow))
        return verdict

    async def _walk(
        self, request: pb.DetectRequest, path: str, call: Call, loaded: Loaded
    ) -> tuple[pb.Verdict, Effort]:
        """The road itself; the effort is the one asked for."""
        arrived_s = time.monotonic()
        ask = parse(
            request,
            path,
            default_rate=loaded.info.default_false_positive_rate,
            smallest_rate=loaded.smallest_rate,
            default_effort=self._config.effort,
        )
        work = self._batcher.admit(
            loaded.warm,
            call.expires_s(arrived_s, request.timeout_ms),
            thorough=ask.effort == "thorough",
            client=call.client,
            priority=ask.priority,
            size_bytes=request.image.ByteSize() + loaded.image_bytes,
        )
        try:
            async with asyncio.timeout(work.expires_s - arrived_s):
                classifier = loaded.detector.classifier
                raw, side = request.image.raw, classifier.input_size
                if (raw.height, raw.width) == side and len(raw.data) <= SMALL_BYTES:
                    image, decode_s = prepare(ask, classifier, self._config.image_limits)
                else:
                    image, decode_s = await self._in_pool(prepare, ask, classifier, self._config.image_limits)
                self._batcher.enqueue(work, image)
                answer = await work.answer
                png = b""
                if ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
                    png = await self._in_pool(overlay_png, image, answer.verdict.heatmap)
        except TimeoutError:
            raise ExpiredError("the deadline passed before the answer was there") from None
        finally:
            self._batcher.leave(work)
        return to_verdict(ask, answer, loaded, decode_s, time.monotonic() - arrived_s, png), ask.effort

    async def _again(self, request: pb.DetectRequest, answered: pb.Verdict, call: Call, shadow: Loaded) -> pb.Verdict:
        """The same image, judged by the shadow."""
        rate = max(answered.false_positive_rate, shadow.smallest_rate)
        unseen = pb.DetectRequest(
            image=request.image,
            options=pb.Options(false_positive_rate=rate),
            effort=pb.EFFORT_FAST,
            priority=pb.PRIORITY_LOW,
        )
        verdict, _ = await self._walk(unseen, "", Call(call.request_id, None, self._config.default_deadline_s), shadow)
        return verdict

    def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args, **kwargs))

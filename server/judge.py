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
from server.calls import Call
from server.config import ServerConfig
from server.errors import ExpiredError, NotReadyError
from server.metrics import Metrics
from server.overlay import overlay_png
from server.requests import parse, prepare

__all__ = ["Judge"]

P = ParamSpec("P")
T = TypeVar("T")


class Judge:
    """Gives verdicts once `load` has given it a detector.

    Args:
        config: Limits and defaults.
        batcher: The queue to the engine.
        metrics: What is counted.
    """

    def __init__(self, config: ServerConfig, batcher: Batcher, metrics: Metrics) -> None:
        self._config = config
        self._batcher = batcher
        self._metrics = metrics
        self._loaded: Loaded | None = None
        # A decode thread must not spread one image over the cores that the model computes on.
        self._pool = ThreadPoolExecutor(config.decode_workers, "heatward-decode", lambda: torch.set_num_threads(1))

    def load(self, loaded: Loaded) -> None:
        """Serves this detector from now on."""
        self._loaded = loaded

    @property
    def loaded(self) -> Loaded:
        """The detector that serves.

        Raises:
            NotReadyError: There is none yet.
        """
        if self._loaded is None:
            raise NotReadyError("the server is starting: retry in a few seconds")
        return self._loaded

    def close(self) -> None:
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
        arrived_s = time.monotonic()
        loaded = self.loaded
        try:
            ask = parse(
                request,
                path,
                default_rate=loaded.info.default_false_positive_rate,
                smallest_rate=loaded.smallest_rate,
                default_effort=self._config.effort,
            )
            work = self._batcher.admit(call.expires_s(arrived_s, request.timeout_ms), thorough=ask.effort == "thorough")
            try:
                async with asyncio.timeout(work.expires_s - arrived_s):
                    image, decode_s = await self._in_pool(
                        prepare, ask, loaded.detector.classifier, self._config.image_limits
                    )
                    self._batcher.enqueue(work, image)
                    answer = await work.answer
                    png = b""
                    if ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
                        png = await self._in_pool(overlay_png, image, answer.verdict.heatmap)
            except TimeoutError:
                raise ExpiredError("the deadline passed before the answer was there") from None
            finally:
                self._batcher.leave(work)
        except Exception as error:
            self._metrics.failed_image(error.code if isinstance(error, HeatwardError) else "INTERNAL")
            raise
        verdict = to_verdict(ask, answer, loaded, decode_s, time.monotonic() - arrived_s, png)
        self._metrics.image(answer, attacked=verdict.attacked, decode_s=decode_s, asked=ask.effort)
        return verdict

    def _in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args, **kwargs))

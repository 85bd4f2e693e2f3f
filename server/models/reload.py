"""Bundles on disk → **the detectors that serve**, at the start and whenever the files change.

    path ─▶ newest bundle there ─▶ verify, load, compare, warm up beside what serves ─▶ put in its place
                                            └─ anything fails: the old one stays, the log and a counter say why

Each must guard the classifier that the current one guards, unless the settings allow another. A bundle that was refused
is tried again only once its files have changed; a watched one, once they have come to rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.errors import HeatwardError
from detector.text import printable
from server.config import ServerConfig
from server.inference.engines import Engines
from server.models.classifiers import refuse_other
from server.models.folder import Stamp, newest, stamp
from server.models.registry import Role, Versions
from server.observers.metrics import Metrics
from server.protocols.detection.answers import Loaded, describe

__all__ = ["Load", "Outcome", "Reloader", "newest"]

log = logging.getLogger("heatward.reload")

Load = Callable[[Path, str], Detector]
"""(bundle, device) → detector."""


@dataclass(frozen=True)
class Outcome:
    """What became of one role."""

    role: Role
    version: str
    changed: bool
    error: str = ""


class Reloader:
    """Loads the configured bundles, again and again.

    Args:
        config: Names them.
        load: Makes a detector from a bundle; called on a thread of its own.
        engines: Warm it up.
        versions: Where it is put.
        metrics: What is counted.
    """

    def __init__(
        self, config: ServerConfig, load: Load, engines: Engines, versions: Versions, metrics: Metrics
    ) -> None:
        self._config = config
        self._load = load
        self._engines = engines
        self._versions = versions
        self._metrics = metrics
        self._paths = {Role.CURRENT: config.bundle or EMBEDDED}
        for role, path in ((Role.CANARY, config.canary), (Role.SHADOW, config.shadow)):
            if path is not None:
                self._paths[role] = path
        self._tried: dict[Role, Stamp] = {}
        self._served: dict[Role, Stamp] = {}
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Loads every configured bundle.

        Raises:
            HeatwardError: One cannot be loaded, cannot promise the default false-positive rate, or guards another
                classifier than the current one.
        """
        async with self._one_at_a_time:
            for role in self._paths:
                await self._put(role)

    async def reload(self) -> list[Outcome]:
        """Loads what has changed since it was tried last; what cannot be loaded leaves the old one in its place."""
        async with self._one_at_a_time:
            return [await self._again(role) for role in self._paths]

    async def watch(self, every_s: float) -> None:
        """Reloads whenever files have changed and, a look later, are as they were, until cancelled."""
        before: dict[Role, Stamp] = {}
        while True:
            await asyncio.sleep(every_s)
            now = {role: self._look(role) for role in self._paths}
            if any(now[role] == before.get(role) != self._tried.get(role) for role in now):
                await self.reload()
            before = now

    async def _again(self, role: Role) -> Outcome:
        before = self._version(role)
        seen = self._look(role)
        if seen == self._tried.get(role):
            return Outcome(role, before, changed=False)
        if seen == self._served.get(role):  # it was gone, or another was refused; what serves is there again
            self._tried[role] = seen
            return Outcome(role, before, changed=False)
        error = ""
        try:
            await self._put(role)
        except Exception as failure:
            error = str(failure)
            unexpected = None if isinstance(failure, HeatwardError | OSError) else failure
            log.error(
                "the new bundle is refused, the old one stays",
                extra={"role": role.value, "version": before, "error": error},
                exc_info=unexpected,
            )
        self._metrics.reload("detector", not error)
        return Outcome(role, self._version(role), self._version(role) != before, error)

    async def _put(self, role: Role) -> None:
        self._tried[role] = seen = self._look(role)
        path = newest(self._paths[role])
        loaded = await self._loaded(role, path)
        self._versions.put(role, loaded)
        self._served[role] = seen
        info = loaded.info
        if role is Role.CURRENT:
            self._metrics.detector(
                info.version, info.classifier.source, info.classifier.fingerprint, info.calibration_size
            )
        log.info("loaded", extra={"role": role.value, "bundle": info.name, "version": info.version})

    async def _loaded(self, role: Role, path: Path) -> Loaded:
        current = None if self._config.allow_other_classifier else self._versions.get(Role.CURRENT)

        def load(device: str) -> Detector:
            detector = self._load(path, device)
            if current is not None:
                refuse_other(f"{role.value} {printable(str(path), None)}", detector.classifier, current.info.classifier)
            return detector

        return describe(await self._engines.warm_soon(load), printable(path.stem), self._config)

    def _look(self, role: Role) -> Stamp:
        """What there is to be loaded; where there is nothing, why, so that this is tried and told once, too."""
        try:
            return stamp(newest(self._paths[role]))
        except (HeatwardError, OSError) as error:
            return ((str(error), 0, 0, 0),)

    def _version(self, role: Role) -> str:
        loaded = self._versions.get(role)
        return "" if loaded is None else loaded.info.version

"""Bundles on disk → **the detectors that serve**, at the start and whenever the files change.

    path ─▶ newest bundle there ─▶ verify, load, warm up beside what serves ─▶ put in its place
                                            └─ anything fails: the old one stays, the log and a counter say why

A bundle that was refused is tried again only once its files have changed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.errors import ConfigError, HeatwardError
from server.answers import Loaded, describe
from server.bundles.versions import Role, Versions
from server.config import ServerConfig
from server.engines import Engines
from server.telemetry.metrics import Metrics

__all__ = ["Load", "Outcome", "Reloader", "newest"]

log = logging.getLogger("heatward.reload")

MANIFEST = "manifest.json"
SUFFIX = ".heatward"

Load = Callable[[Path, str], Detector]
"""(bundle, device) → detector."""
Stamp = tuple[tuple[str, int, int, int], ...]


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
        self._stamps: dict[Role, Stamp] = {}
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Loads every configured bundle.

        Raises:
            HeatwardError: One cannot be loaded, or cannot promise the default false-positive rate.
        """
        async with self._one_at_a_time:
            for role in self._paths:
                await self._put(role)

    async def reload(self) -> list[Outcome]:
        """Loads what has changed since it was tried last; what cannot be loaded leaves the old one in its place."""
        async with self._one_at_a_time:
            return [await self._again(role) for role in self._paths]

    async def watch(self, every_s: float) -> None:
        """Reloads whenever files have changed, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if any(self._changed(role) for role in self._paths):
                await self.reload()

    async def _again(self, role: Role) -> Outcome:
        before = self._version(role)
        if not self._changed(role):
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
        path = newest(self._paths[role])
        self._stamps[role] = stamp(path)
        loaded = await self._loaded(path)
        self._versions.put(role, loaded)
        info = loaded.info
        if role is Role.CURRENT:
            self._metrics.detector(
                info.version, info.classifier.source, info.classifier.fingerprint, info.calibration_size
            )
        log.info("loaded", extra={"role": role.value, "bundle": info.name, "version": info.version})

    async def _loaded(self, path: Path) -> Loaded:
        return describe(await self._engines.warm_soon(lambda device: self._load(path, device)), path.stem, self._config)

    def _changed(self, role: Role) -> bool:
        try:
            return stamp(newest(self._paths[role])) != self._stamps.get(role)
        except (HeatwardError, OSError):  # gone or closed to us, for now: what is loaded stays
            return False

    def _version(self, role: Role) -> str:
        loaded = self._versions.get(role)
        return "" if loaded is None else loaded.info.version


def newest(path: Path) -> Path:
    """The bundle at `path`: itself or, in a folder of bundles, the last by name, numbers in their order (v9, v10).

    Raises:
        ConfigError: The folder holds none.
    """
    if not path.is_dir() or (path / MANIFEST).exists():
        return path
    bundles = [each for each in path.iterdir() if each.suffix == SUFFIX or (each / MANIFEST).exists()]
    if not bundles:
        raise ConfigError(f"{path} holds no bundle: put a {SUFFIX} file there, or name one")
    return max(bundles, key=lambda each: [(int(part), "") if part.isdigit() else (-1, part) for part in _parts(each)])


def stamp(path: Path) -> Stamp:
    """What changes when a bundle's files do: names, sizes, times, inodes; empty where there is none."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(each.name, each.stat()) for each in files]
    except OSError:
        return ()
    return tuple((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in found)


def _parts(path: Path) -> list[str]:
    return [part for part in re.split(r"(\d+)", path.name) if part]

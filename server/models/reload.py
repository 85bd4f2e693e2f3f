"""Bundles on disk or in a store → **the detectors that serve**, at the start and whenever the files change.

    path ─▶ newest bundle there ─▶ verify, load, compare, warm up beside what serves ─▶ put in its place
                                            └─ anything fails: the old one stays, the log and a counter say why

Each must guard the classifier that the current one guards, unless the settings allow another. A bundle that was refused
is tried again only once its files or the trusted keys have changed, or the store that failed answers; a watched one,
once they have come to rest. Where nothing has changed, a classifier that another server computes is asked whether it is
still the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detector.bundle import EMBEDDED
from detector.detector import Detector
from detector.errors import HeatwardError, SignatureError, StoreError
from detector.remote import local_copy, shown
from detector.text import printable
from server.config import ServerConfig
from server.models.classifiers import refuse_other
from server.models.folder import Stamp, newest, stamp_of_newest
from server.models.keys import stamp_of_keys
from server.models.registry import ModelRegistry, Role
from server.models.served_model import ServedModel
from server.models.warm_up import aside, load_soon

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
        devices: Where engines compute, in their order.
        registry: Where it is put.
        on_reload: Told "detector" and whether a changed bundle could be used; False, too, where the served model that
            an unchanged one asks does not answer as it did. Told "signature" and False where no trusted key signed it.
        on_current: Told of the model that answers by default from now on.
    """

    def __init__(
        self,
        config: ServerConfig,
        load: Load,
        devices: Sequence[str],
        registry: ModelRegistry,
        on_reload: Callable[[str, bool], None],
        on_current: Callable[[ServedModel], None],
    ) -> None:
        self._config = config
        self._load = load
        self._devices = devices
        self._registry = registry
        self._on_reload = on_reload
        self._on_current = on_current
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
            now = {role: await self._look(role) for role in self._paths}
            if any(now[role] == before.get(role) != self._tried.get(role) for role in now):
                await self.reload()
            before = now

    async def _again(self, role: Role) -> Outcome:
        before = self._version(role)
        seen = await self._look(role)
        if seen == self._tried.get(role):
            return await self._unchanged(role, before)
        if seen == self._served.get(role):  # it was gone, or another was refused; what serves is there again
            self._tried[role] = seen
            return await self._unchanged(role, before)
        error = ""
        try:
            await self._put(role)
        except Exception as failure:
            error = str(failure)
            if isinstance(failure, StoreError):  # the bundle may be good: try it again once the store answers
                self._tried[role] = ((error, 0, 0, 0),)
            unexpected = None if isinstance(failure, HeatwardError | OSError) else failure
            log.error(
                "the new bundle is refused, the old one stays",
                extra={"role": role.value, "version": before, "error": error},
                exc_info=unexpected,
            )
            if isinstance(failure, SignatureError):
                self._on_reload("signature", False)
        self._on_reload("detector", not error)
        return Outcome(role, self._version(role), self._version(role) != before, error)

    async def _unchanged(self, role: Role, version: str) -> Outcome:
        """There is nothing to load; but a classifier that another server computes may be another one by now."""
        model, error = self._registry.get(role), ""
        if model is not None:
            try:
                await aside(model.detector.classifier.ask_again)
            except HeatwardError as failure:
                error = str(failure)
                told = {"role": role.value, "version": version, "error": error}
                log.error("the bundle's classifier does not answer as it did", extra=told)
                self._on_reload("detector", False)
        return Outcome(role, version, changed=False, error=error)

    async def _put(self, role: Role) -> None:
        self._tried[role] = seen = await self._look(role)
        path = await aside(lambda: newest(self._paths[role]))
        model = await self._model(role, path)
        self._registry.put(role, model)
        self._served[role] = seen
        if role is Role.CURRENT:
            self._on_current(model)
        log.info("loaded", extra={"role": role.value, "bundle": model.name, "version": model.version})

    async def _model(self, role: Role, path: Path) -> ServedModel:
        current = None if self._config.allow_other_classifier else self._registry.get(Role.CURRENT)

        with ExitStack() as held:

            @cache
            def file() -> Path:  # fetched once, for all devices
                return held.enter_context(local_copy(path))

            def load(device: str) -> Detector:
                detector = self._load(file(), device)
                if current is not None:
                    bundle = f"{role.value} {printable(shown(path), None)}"
                    refuse_other(bundle, detector.classifier, current.detector.classifier)
                return detector

            detectors, latency = await load_soon(load, self._devices, self._config)
        slower = None
        if detectors[0].patches is not None:
            by_device = dict(zip(self._devices, detectors, strict=True))
            slower = await load_soon(lambda at: by_device[at].looking_for_patches(), self._devices, self._config)
        name = printable(Path(shown(path)).stem)
        return ServedModel.of(detectors, latency, name, self._config.false_positive_rate, slower)

    async def _look(self, role: Role) -> Stamp:
        """What there is to be loaded; where there is nothing, why, so that this is tried and told once, too."""
        try:
            return await aside(lambda: stamp_of_newest(self._paths[role]) + stamp_of_keys(self._config))
        except (HeatwardError, OSError) as error:
            return ((str(error), 0, 0, 0),)

    def _version(self, role: Role) -> str:
        model = self._registry.get(role)
        return "" if model is None else model.version

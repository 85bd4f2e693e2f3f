"""Which of the loaded detectors answers a request: **the current one, the canary for its share, or the one named**."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import Enum

from detector.text import printable
from server.errors import NotReadyError, UnknownVersionError
from server.protocols.detection.answers import Loaded

__all__ = ["Role", "Versions"]


class Role(Enum):
    """What a bundle is there for."""

    CURRENT = "current"
    CANARY = "canary"
    """Answers a share of the requests that name no version."""
    SHADOW = "shadow"
    """Judges what others answer, and answers only who names its version."""


class Versions:
    """The loaded detectors by their role. A request keeps the one that it began with, whatever is put in its place.

    Args:
        canary_weight: Share of the requests that the canary answers.
        chance: Uniform in [0, 1); a test's own.
    """

    def __init__(self, canary_weight: float = 0.0, chance: Callable[[], float] = random.random) -> None:
        self.canary_weight = canary_weight
        self._chance = chance
        self._loaded: dict[Role, Loaded] = {}

    def __iter__(self) -> Iterator[tuple[Role, Loaded]]:
        return iter(self._loaded.items())

    def put(self, role: Role, loaded: Loaded) -> None:
        """Has this detector fill the role from now on."""
        self._loaded[role] = loaded

    def get(self, role: Role) -> Loaded | None:
        return self._loaded.get(role)

    @property
    def current(self) -> Loaded:
        """The detector that answers by default.

        Raises:
            NotReadyError: There is none yet.
        """
        loaded = self._loaded.get(Role.CURRENT)
        if loaded is None:
            raise NotReadyError("the server is starting: retry in a few seconds")
        return loaded

    def named(self, version: str) -> Loaded:
        """The detector of that version; "": the current one.

        Raises:
            UnknownVersionError: It is not loaded.
            NotReadyError: None is loaded yet.
        """
        current = self.current
        if not version:
            return current
        for loaded in self._loaded.values():
            if loaded.info.version == version:
                return loaded
        there = ", ".join(f"{loaded.info.version} ({role.value})" for role, loaded in self)
        raise UnknownVersionError(f"no detector of version '{printable(version)}' is loaded; there are {there}")

    def choose(self, version: str) -> Loaded:
        """`named`, but for a request that names none: the canary for its share."""
        canary = self._loaded.get(Role.CANARY)
        if not version and canary is not None and self._chance() < self.canary_weight:
            return canary
        return self.named(version)

"""Which of the loaded detectors answers a request: **the current one, the canary for its share, or the one named**."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum

from detector.text import printable
from server.errors import NotReadyError, RequestError, UnknownVersionError
from server.models.served_model import ServedModel

__all__ = ["ModelRegistry", "Role"]


class Role(Enum):
    """What a bundle is there for."""

    CURRENT = "current"
    CANARY = "canary"
    """Answers a share of the requests that name no version."""
    SHADOW = "shadow"
    """Judges what others answer, and answers only who names its version."""


class ModelRegistry:
    """The loaded detectors by their role. A request keeps the one that it began with, whatever is put in its place.

    Args:
        canary_weight: Share of the requests that the canary answers.
        chance: Uniform in [0, 1); a test's own.
    """

    def __init__(self, canary_weight: float = 0.0, chance: Callable[[], float] = random.random) -> None:
        self.canary_weight = canary_weight
        self._chance = chance
        self._models: dict[Role, ServedModel] = {}

    def __iter__(self) -> Iterator[tuple[Role, ServedModel]]:
        return iter(self._models.items())

    def put(self, role: Role, model: ServedModel) -> None:
        """Has this detector fill the role from now on."""
        self._models[role] = model

    def get(self, role: Role) -> ServedModel | None:
        return self._models.get(role)

    @property
    def current(self) -> ServedModel:
        """The detector that answers by default.

        Raises:
            NotReadyError: There is none yet.
        """
        model = self._models.get(Role.CURRENT)
        if model is None:
            raise NotReadyError("the server is starting: retry in a few seconds")
        return model

    def named(self, version: str) -> ServedModel:
        """The detector of that version; "": the current one.

        Raises:
            UnknownVersionError: It is not loaded.
            NotReadyError: None is loaded yet.
        """
        current = self.current
        if not version:
            return current
        for model in self._models.values():
            if model.version == version:
                return model
        there = ", ".join(f"{model.version} ({role.value})" for role, model in self)
        raise UnknownVersionError(f"no detector of version '{printable(version)}' is loaded; there are {there}")

    def choose(self, version: str, check: Callable[[ServedModel], object] = lambda _: None) -> ServedModel:
        """`named`, but for a request that names none: the canary for its share, where it can do what is asked.

        Args:
            version: That the request names.
            check: Raises `RequestError` where a model cannot: what the current one promises is not refused by chance.
        """
        canary = self._models.get(Role.CANARY)
        if not version and canary is not None and self._chance() < self.canary_weight:
            with suppress(RequestError):
                check(canary)
                return canary
        return self.named(version)

"""What the images of one call share, whatever the protocol: an id, a deadline, a caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from server.access.disclosure import Disclosure
from server.access.tokens import Quota

__all__ = ["Action", "RequestContext", "Tally"]


class Action(StrEnum):
    """What becomes of a call with a flagged image."""

    OBSERVED = "observed"
    """It is answered as any other."""
    DENIED = "denied"
    MODIFIED = "modified"
    """Its answer has another label."""


@dataclass(slots=True)
class Tally:
    """Images of a call that have no answer yet."""

    images: int = 0


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What the images of one call share. Times are of `time.monotonic`."""

    request_id: str
    deadline_s: float | None
    default_s: float
    client: str = ""
    """Who calls, by the name of the token or by address: images of different clients take turns in the queue."""
    quota: Quota = field(default_factory=Quota)
    """Asked where each image starts; without a token, or a rate beside it, it never refuses."""
    quota_now: Callable[[], Quota] | None = None
    """Asked in its place, so that a call that lasts is held to what the token file says meanwhile."""
    disclosure: Disclosure = Disclosure.FULL
    """How much the caller is told of what the detector finds."""
    action: Action = Action.OBSERVED
    """What becomes of it where an image is flagged."""
    unanswered: Tally = field(default_factory=Tally)
    notes: dict[str, Any] = field(default_factory=dict)
    """What observers keep for the length of the call."""

    def take(self) -> None:
        """Takes one image's worth of the caller's quota.

        Raises:
            QuotaError: Nothing is left.
            UnauthenticatedError: The caller's token was taken out of the file since the call began.
        """
        (self.quota if self.quota_now is None else self.quota_now()).take()

    def expires_s(self, now_s: float, timeout_ms: int) -> float:
        """When an image that arrives now is given up; `timeout_ms` is its own limit, 0 for none."""
        own_s = now_s + timeout_ms / 1e3 if timeout_ms else None
        if self.deadline_s is None:
            return now_s + self.default_s if own_s is None else own_s
        return self.deadline_s if own_s is None else min(own_s, self.deadline_s)

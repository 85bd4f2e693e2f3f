"""What would be in time: **who is let in**, and **which requests make the next batch**.

The latency model predicts when an image would be done behind all that goes before it; one that would be late is
refused at once, with a time to come back. Of what was let in, the batch is taken that answers most a second.
"""

from __future__ import annotations

import math

from server.errors import ExpiredError, TooLateError
from server.inference.request import InferenceRequest

__all__ = ["Admission", "best_batch", "soon"]

PROBE_S = 1.0  # how often an idle engine tries what it should be too slow for
MARGIN_S, MARGIN = 0.03, 0.1  # of the time left, for the way back to the caller
ARRIVALS_S = 1.0  # the memory of the rate of arrivals


class Admission:
    """Refuses what would be late. Not thread-safe.

    Args:
        engines: How many take from the queue.
        now_s: By the clock that `check` is told.
    """

    def __init__(self, engines: int, now_s: float) -> None:
        self._engines = engines
        self._next_probe_s = -math.inf
        self._arrivals, self._arrived_s = 0.0, now_s

    def check(self, request: InferenceRequest, now_s: float, *, free_s: float, ahead: int, held: int) -> None:
        """Lets a request in, or raises.

        Args:
            request: Asks to be let in.
            now_s: The time.
            free_s: When an engine is free.
            ahead: How many images go before it.
            held: How many images wait.

        Raises:
            TooLateError: Too much waits.
            ExpiredError: Not even an idle engine could be in time. Once a second one is let in nevertheless, or after
                a slow minute of the machine nothing would teach that it is fast again.
        """
        latency = request.model.latency
        more = int(self._rate(now_s) * max(0.0, free_s - now_s))  # they come until the batch begins, and make it longer
        if not held and now_s + latency.usual_s(1) > request.expires_s:
            if now_s >= self._next_probe_s:
                self._next_probe_s = now_s + PROBE_S
                request.probe = True
                return
            raise ExpiredError(
                f"an image takes {latency.usual_s(1) * 1e3:.3g} ms here, more than the deadline leaves: allow more time"
            )
        start_s = max(now_s, free_s)
        done_s = start_s + latency.finish_s(math.ceil((ahead + 1) / self._engines), more)
        done_s += min(MARGIN_S, MARGIN * (request.expires_s - now_s))
        if done_s > request.expires_s and (held or free_s > now_s):
            raise TooLateError(
                f"{held} images wait: this one would be {(done_s - request.expires_s) * 1e3:.0f} ms late; retry "
                "later, allow more time, or start more servers",
                retry_after_s=soon(done_s - request.expires_s),
            )

    def _rate(self, now_s: float) -> float:
        """Images that asked to be let in, a second: a running mean, to which this one adds."""
        rate = self._arrivals * math.exp((self._arrived_s - now_s) / ARRIVALS_S)
        self._arrivals, self._arrived_s = rate + 1 / ARRIVALS_S, now_s
        return rate


def best_batch(waiting: list[InferenceRequest], now_s: float) -> list[InferenceRequest]:
    """A run of requests, in their order: the first as a rule, or the one that answers most a second.

    The first are passed over where they are so near their deadline that only a small batch would be in time, and a much
    fuller one behind them would be late for their sake. Without this, a server with too much to do computes ever
    smaller batches of requests that are nearly late (early drop, Shen et al., "Nexus", 2019). Priorities are kept.
    """
    best: list[InferenceRequest] = []
    for first, leader in enumerate(waiting):
        if leader.priority != waiting[0].priority:
            break
        latency, soonest_s, count = leader.model.latency, math.inf, 0
        for request in waiting[first : first + latency.limit]:
            soonest_s = min(soonest_s, request.expires_s)
            if count and now_s + latency.slow_s(count + 1) > soonest_s:
                soonest_s = min(each.expires_s for each in waiting[first : first + count])
                break
            count += 1
        better = not best or (
            count / latency.usual_s(count) > len(best) / latency.usual_s(len(best))
            and now_s + latency.slow_s(len(best)) + latency.slow_s(count) > soonest_s
        )
        if better:
            best = waiting[first : first + count]
        if count == latency.limit or first + count == len(waiting):
            break
    return best


def soon(seconds: float) -> float:
    """When to come back: not at once, and not after the reason has passed for long."""
    return min(max(seconds, 0.05), 10.0)

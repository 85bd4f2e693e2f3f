"""The shadow: *requests that were answered* → **the same, judged again by the bundle on trial, and compared**.

It has no effect on the answers: it judges after them, with low priority, and where too much waits it judges less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from detector.errors import HeatwardError
from server.errors import code_of
from server.inference.context import RequestContext
from server.inference.observer import Observer
from server.inference.pipeline import Pipeline
from server.inference.request import LOW, InferenceRequest, InferenceResult, Outcome
from server.models.registry import ModelRegistry, Role

__all__ = ["Shadow"]

log = logging.getLogger("heatward.shadow")

SIMILAR = 0.05  # of p-values


class Shadow(Observer):
    """Has a shadow judge what others answered.

    Args:
        registry: Holds the shadow, if there is one.
        pipeline: Judges.
        deadline_s: What an image may take.
        on_outcome: Told of each image, in what the shadow differs.
        most: Images that it may be busy with at once; others are not compared.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        pipeline: Pipeline,
        deadline_s: float,
        on_outcome: Callable[[Sequence[str]], None],
        most: int = 16,
    ) -> None:
        self._registry = registry
        self._pipeline = pipeline
        self._deadline_s = deadline_s
        self._on_outcome = on_outcome
        self._most = most
        self._open: set[InferenceRequest] = set()

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        """Has the same image judged, unless too many wait already."""
        model = self._registry.get(Role.SHADOW)
        if model is None or model is request.model:
            return
        if len(self._open) >= self._most:
            self._on_outcome(["skipped"])
            return
        rate = max(result.false_positive_rate, model.smallest_rate)
        again = InferenceRequest(model, request.source, rate, priority=LOW)
        context = RequestContext(request.context.request_id, None, self._deadline_s)
        self._open.add(again)
        self._pipeline.start([0], lambda _: again, context, partial(self._compare, result, again), observed=False)

    def close(self) -> None:
        self._pipeline.cancel(list(self._open))

    def _compare(self, answered: InferenceResult, again: InferenceRequest, place: int, outcome: Outcome) -> None:
        self._open.discard(again)
        if isinstance(outcome, InferenceResult):
            self._on_outcome(differences(answered, outcome) or ["same"])
            return
        if not isinstance(outcome, HeatwardError):
            log.error("the shadow failed", exc_info=outcome)
        self._on_outcome(["refused" if code_of(outcome) == "RESOURCE_EXHAUSTED" else "failed"])


def differences(one: InferenceResult, other: InferenceResult) -> list[str]:
    """In what two results for the same image differ."""
    found = {
        "verdict": one.attacked != other.attacked,
        "p_value": abs(one.verdict.p_value - other.verdict.p_value) > SIMILAR,
        "label": one.model.label(one.verdict.label) != other.model.label(other.verdict.label),
        "recovered": one.attacked and other.attacked and _recovered(one) != _recovered(other),
    }
    return [name for name, differs in found.items() if differs]


def _recovered(result: InferenceResult) -> str | None:
    recovered = result.verdict.recovered
    return result.model.label(recovered[0][0]) if recovered else None

"""Flagged images whose callers are not told → **a line in the log each**: nobody else would say so."""

from __future__ import annotations

import logging

from server.access.disclosure import Disclosure
from server.inference.observer import Observer
from server.inference.request import InferenceRequest, InferenceResult

__all__ = ["Untold"]

log = logging.getLogger("heatward.verdicts")


class Untold(Observer):
    """Logs what a caller with the disclosure `none` does not learn."""

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        if result.attacked and request.context.disclosure is Disclosure.NONE:
            log.info(
                "attacked, and the caller is not told",
                extra={
                    "request_id": request.request_id,
                    "client": request.client,
                    "p_value": result.verdict.p_value,
                    "detector_version": result.model.version,
                },
            )

"""*Flagged images* → **the images themselves, as records**, kept for some days: for whoever looks into an attack.

They are records like all others (detector/records), so `heatward review` shows them and `RecordReader` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from server.config import ServerConfig
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.background import Dropped
from server.observers.recorder import Recorder

__all__ = ["Quarantine"]


class Quarantine(Recorder):
    """Records every flagged image, and nothing else, at the rate that flagged it: the request's or the server's own.

    Args:
        folder: Where.
        config: For how long.
        on_kept: Told how many were written.
        on_dropped: Told why so many were not.
    """

    WHAT: ClassVar[str] = "quarantine"
    SETTING: ClassVar[str] = "quarantine"

    def __init__(self, folder: Path, config: ServerConfig, on_kept: Callable[[int], None], on_dropped: Dropped) -> None:
        as_records = {
            "record_folder": folder,
            "record_share": 1.0,
            "record_images": True,
            "record_evidence": False,
            "record_max_age_days": config.quarantine_days,
        }
        super().__init__(config.model_copy(update=as_records), on_kept, on_dropped)

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        if result.flagged:
            rate = max(result.false_positive_rate, result.model.default_rate)
            super().finished(request, replace(result, false_positive_rate=rate))

"""A retraining of the tiny job that dies where a test says, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tiny_job import configure

from training.progress import SilentProgress
from training.retraining.retrain import Options, retrain
from training.retraining.store import Store

__all__ = ["PRELOADED", "options", "run_until_death"]

PRELOADED = ["training.retraining.retrain", "training.evaluation.evaluate"]
"""Modules that a server of processes has at hand."""


def run_until_death(source: Path, place: Path, victim: str) -> None:
    """In a process of its own: die by SIGKILL where `victim` is about to get its name, or after that."""
    replace_file = os.replace

    def deadly(temporary: str | Path, path: str | Path) -> None:
        if re.search(f"{victim}$", str(path)):
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(temporary, path)
        if victim == "after the pointer" and str(path).endswith("store/champion.json"):
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store.open(place / "store")
    store.champion()
    os.replace = deadly  # type: ignore[assignment]
    retrain(configure(source, place), store, options(place), SilentProgress())


def options(place: Path) -> Options:
    return Options(rate=0.05, tolerance=0.9, records=place / "recorded")

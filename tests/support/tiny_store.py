"""A store whose champion flags nothing, or everything, beside the finished work of the tiny job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detector.bundle import load_bundle, save_bundle
from training.retraining.store import Store

__all__ = ["ALWAYS", "NEVER", "make_store", "words"]

NEVER, ALWAYS = 1e6, -1e6
"""Added to clean scores: such a detector flags nothing, or everything."""


def make_store(place: Path, trained: Path, by: float) -> Store:
    bundle = load_bundle(trained / "detector.heatward")
    (place / "store").mkdir()
    shifted = replace(bundle, calibration_scores=bundle.calibration_scores + by)
    save_bundle(place / "store" / "first.heatward", shifted)
    return Store.open(place / "store")


def words(source: Path, place: Path, *more: str) -> list[str]:
    """Of `heatward retrain`; twenty images tell little."""
    config = ["--config", str(source / "config.toml"), "--work", str(place / "work")]
    return ["--champion", str(place / "store"), *config, "--rate", "0.05", "--tolerance", "0.9", *more]

"""Bundles that hold next to nothing, for what only moves and compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor

from detector.bundle import Bundle, Manifest, read_manifest, save_bundle

CLEAN_SCORES = torch.linspace(0, 1, 199, dtype=torch.float64)


def small_bundle(
    letter: str = "a", *, scores: Tensor = CLEAN_SCORES, fingerprint: str = "f" * 64, **provenance: Any
) -> Bundle:
    """One whose networks and provenance tell the letter."""
    manifest = Manifest(
        heatward_version="0.1.0",
        classifier=tiny.SPEC,
        fingerprint=fingerprint,
        provenance={"letter": letter, **provenance},
    )
    return Bundle(manifest, None, {"letter": torch.tensor([float(ord(letter))])}, scores)


def save_small(path: Path, letter: str = "a", **fields: Any) -> str:
    """Save one; returns its digest."""
    save_bundle(path, small_bundle(letter, **fields))
    return read_manifest(path).digest

"""Records of the tiny problem's images, as a server leaves them, and labels of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from sample_requests import png

from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def record(number: int, image: bytes | None = None, of: int | None = None, shows: str = "checker") -> Record:
    """The record r7 of image 7, or of another one that came again."""
    if image is None:
        drawn = tiny.images(1, seed=5000 + (number if of is None else of)).images[0]
        image = png((drawn * 255).round().byte().permute(1, 2, 0).numpy().astype(np.uint8))
    texts = ("call_id", "client", "model_name", "model_version", "bundle_sha256", "recovered_name", "corrected_name")
    empty: dict[str, Any] = dict.fromkeys(texts, "")
    return Record(
        record_id=f"r{number:03d}", request_id=f"q{number}", time=NOW, input_sha256=hashlib.sha256(image).hexdigest(),
        input_bytes=len(image), height=16, width=16, attacked=False, false_positive_rate=0.01, p_value=0.5,
        attack_score=1.0, predicted=3, predicted_name=shows, probability=0.9, recovered=1, corrected=3, image=image,
        **empty,
    )  # fmt: skip


def write(folder: Path, records: Iterable[Record], labels: dict[int, Truth] | None = None) -> Path:
    ShardFolder(folder / "records", schema_of(Record)).write([asdict(each) for each in records])
    label(folder, labels or {})
    return folder


def label(folder: Path, labels: dict[int, Truth], shows: str = "") -> None:
    rows = [
        asdict(Label(record_id=f"r{number:03d}", truth=truth.value, true_label=shows, by="me", time=NOW))
        for number, truth in labels.items()
    ]
    if rows:
        ShardFolder(folder / "labels", schema_of(Label)).write(rows)

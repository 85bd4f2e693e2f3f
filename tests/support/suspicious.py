"""A folder of records for tests of the review: some flagged, some borderline, one clean."""

from __future__ import annotations

import io
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from detector.records.schema import Label, Record, Truth, schema_of
from detector.records.shards import ShardFolder

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
RED = (200, 30, 40)


def png(colour: tuple[int, int, int] = RED, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def evidence() -> bytes:
    heatmap = np.zeros((5, 5), np.float32)
    heatmap[2, 2] = 1
    return save({"heatmap": heatmap, "logits": np.zeros(4, np.float32)})


def record(number: int, **fields: Any) -> Record:
    """Flagged, `number` hours after noon; other fields as named."""
    return Record(
        **{
            "record_id": f"r{number}", "time": NOON + timedelta(hours=number), "request_id": f"q{number}",
            "call_id": "c", "client": "web", "model_name": "tiny", "model_version": "1", "bundle_sha256": "0" * 64,
            "input_sha256": "0" * 64, "input_bytes": 9, "height": 16, "width": 16, "attacked": True,
            "false_positive_rate": 0.01, "p_value": 0.004, "attack_score": 2.0, "predicted": 0,
            "predicted_name": "cat", "probability": 0.9, "recovered": 1, "recovered_name": "dog", "corrected": 1,
            "corrected_name": "dog", **fields,
        }
    )  # fmt: skip


def write_records(folder: Path, *records: Record) -> None:
    ShardFolder(folder / "records", schema_of(Record)).write([asdict(each) for each in records])


def write_label(folder: Path, record_id: str, truth: Truth, true_label: str = "", by: str = "mara") -> None:
    label = Label(record_id=record_id, truth=truth, true_label=true_label, by=by, time=NOON)
    ShardFolder(folder / "labels", schema_of(Label)).write([asdict(label)])

"""A request and its result → **a `Record`**. It hashes, and may decode or compress an image: not for the event loop."""

from __future__ import annotations

import hashlib
import io
import secrets
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from detector.records.schema import Record
from server.config import ServerConfig
from server.inference.request import InferenceRequest, InferenceResult

__all__ = ["to_record"]


def to_record(time_s: float, request: InferenceRequest, result: InferenceResult, config: ServerConfig) -> Record:
    """Writes down an image that was answered at that time; what is large only where the settings allow it."""
    verdict, model, source = result.verdict, result.model, request.source
    pixels = None if source.file is not None else source.decode(config.image_limits)
    content = source.file if pixels is None else pixels.tobytes()
    recovered = verdict.recovered[0][0] if verdict.recovered else -1
    evidence = image = None
    if config.record_evidence and verdict.evidence is not None:
        evidence = save({**verdict.evidence, "heatmap": np.ascontiguousarray(verdict.heatmap)})
    if config.record_images:
        image = content if pixels is None else _png(pixels)
    return Record(
        record_id=f"{round(time_s * 1e3):012x}{secrets.token_hex(6)}",
        time=datetime.fromtimestamp(time_s, UTC),
        request_id=request.request_id,
        call_id=request.context.request_id,
        client=request.client,
        model_name=model.name,
        model_version=model.version,
        bundle_sha256=model.bundle_sha256,
        input_sha256=hashlib.sha256(content or b"").hexdigest(),
        input_bytes=source.size_bytes,
        height=request.decoded_size[0],
        width=request.decoded_size[1],
        attacked=result.attacked,
        false_positive_rate=result.false_positive_rate,
        p_value=verdict.p_value,
        attack_score=verdict.attack_score,
        predicted=verdict.label,
        predicted_name=model.label(verdict.label),
        probability=verdict.probability,
        recovered=recovered,
        recovered_name=model.label(recovered) if recovered >= 0 else "",
        corrected=verdict.corrected[0],
        corrected_name=model.label(verdict.corrected[0]),
        error_rate=verdict.error_rate,
        calibration_group=verdict.calibration_group or None,
        tail_estimate=None if verdict.tail is None else verdict.tail.probability,
        patch_p_value=verdict.patch,
        evidence=evidence,
        image=image,
    )


def _png(pixels: Any) -> bytes:
    """Pixels (H, W, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

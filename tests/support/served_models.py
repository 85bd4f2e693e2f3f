"""Models, requests and results as the core of the server knows them, made without a bundle or a message."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_detector import FakeDetector

from detector.detector import Verdict
from server.inference.image import ImageSource
from server.inference.request import InferenceRequest, InferenceResult
from server.models.latency_model import LatencyModel
from server.models.served_model import ServedModel

IMAGE = np.zeros((2, 2, 3), np.uint8)


def served_model(
    latency: LatencyModel | None = None, *, version: str = "v1", calibration_size: int = 199
) -> ServedModel:
    return ServedModel("fake", version, (FakeDetector(),), latency or LatencyModel({1: 1e-6}), 0.01, calibration_size)


def inference_request(model: ServedModel | None = None, **fields: Any) -> InferenceRequest:
    request = InferenceRequest(model or served_model(), ImageSource("image", 0, lambda limits: IMAGE), 0.01)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def inference_result(
    p_value: float = 0.5,
    version: str = "v1",
    *,
    label: int = 3,
    recovered: tuple[int, ...] = (1,),
    corrected: int = 1,
    **fields: Any,
) -> InferenceResult:
    """Attacked where the p-value is at most 0.01."""
    verdict = Verdict(
        label=label,
        probability=0.75,
        top=((label, 0.75),),
        attack_score=1.0,
        p_value=p_value,
        recovered=tuple((index, 0.9) for index in recovered),
        corrected=(corrected, 0.8),
        heatmap=np.zeros((4, 4), np.float32),
    )
    return InferenceResult(verdict, served_model(version=version), 0.01, **fields)

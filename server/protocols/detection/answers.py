"""An `Answer` → **the contract's `Verdict`**. What the caller is not told stays unset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from heatward.v1 import detection_pb2 as pb

from server.inference.answer import Answer
from server.inference.request import InferenceResult
from server.protocols.options import MAX_TOP_K

__all__ = ["to_verdict"]


def to_verdict(request: pb.DetectRequest, answer: Answer) -> pb.Verdict:
    """Writes the answer to one request."""
    names = answer.model.classes
    top_k = min(request.options.top_k or MAX_TOP_K, MAX_TOP_K)
    message = pb.Verdict(
        request_id=request.request_id,
        predicted=_labels([(answer.label, answer.probability)], names)[0],
        top=_labels(answer.top[:top_k], names),
        attacked=bool(answer.attacked),
        false_positive_rate=answer.false_positive_rate or 0.0,
        detector_version=answer.model.version,
        **({} if answer.details is None else _details(answer.details)),
    )
    if answer.details is not None:
        _add_optional(message, request, answer.details)
    return message


def _details(result: InferenceResult) -> dict[str, Any]:
    """What every verdict has that is told in full."""
    verdict, names = result.verdict, result.model.classes
    return {
        "attack_score": verdict.attack_score,
        "p_value": verdict.p_value,
        "recovered": _labels(verdict.recovered, names),
        "corrected": _labels([verdict.corrected], names)[0],
        "timings": {
            "queue_ms": result.queue_s * 1e3,
            "decode_ms": result.decode_s * 1e3,
            "compute_ms": result.compute_s * 1e3,
            "total_ms": result.total_s * 1e3,
            "batch_size": result.batch_size,
        },
        "error_rate": verdict.error_rate,
        "calibration_group": verdict.calibration_group,
    }


def _add_optional(message: pb.Verdict, request: pb.DetectRequest, result: InferenceResult) -> None:
    verdict = result.verdict
    if result.reliable is not None:
        message.reliable = result.reliable
    if verdict.patch is not None and result.patched is not None:
        message.patch_p_value, message.patched = verdict.patch, result.patched
    if request.options.heatmap == pb.HEATMAP_FORMAT_FLOAT:
        height, width = verdict.heatmap.shape
        data = verdict.heatmap.astype("<f4").tobytes()
        message.heatmap.map.CopyFrom(pb.FloatMap(data=data, height=height, width=width))
    elif result.overlay:
        message.heatmap.png = result.overlay
    if verdict.tail:
        tail = verdict.tail
        message.tail_estimate.CopyFrom(pb.TailEstimate(probability=tail.probability, low=tail.low, high=tail.high))


def _labels(pairs: Iterable[tuple[int, float]], names: Sequence[str]) -> list[dict[str, Any]]:
    """`Label`s; as dictionaries, for a message made to be copied into another costs twice the time."""
    known = len(names)
    return [
        {"index": index, "name": names[index] if index < known else "", "probability": probability}
        for index, probability in pairs
    ]

"""A detector's verdict → **the contract's `Verdict`**; a loaded detector → **`DetectorInfo`**."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from heatward.v1 import detection_pb2 as pb

from detector.detector import Detector
from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from server.config import ServerConfig
from server.inference.request import Answer
from server.inference.warm_up import Warm
from server.protocols.detection.requests import MAX_TOP_K, Ask

__all__ = ["Loaded", "describe", "to_verdict"]

log = logging.getLogger("heatward.answers")

PREFERRED_RATE = 0.01
EVIDENCE = ("channel_attribution", "class_activation_gradient", "margin_activation_gradient", "stability_under_views")
"""The heatmaps of `detector.evidence`."""


@dataclass(frozen=True)
class Loaded:
    """A detector that serves, and what the contract says about it."""

    warm: Warm
    info: pb.DetectorInfo

    @property
    def detector(self) -> Detector:
        return self.warm.detectors[0]

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.detector.classifier.input_size

    @property
    def image_bytes(self) -> int:
        """Of an image that waits for the engine: 8 bits a colour."""
        height, width = self.input_size
        return 3 * height * width

    @property
    def smallest_rate(self) -> float:
        return self.info.smallest_false_positive_rate


def describe(warm: Warm, name: str, config: ServerConfig) -> Loaded:
    """Writes down what is loaded.

    Args:
        warm: As loaded.
        name: The bundle's name.
        config: Gives the default rate and the limits.

    Raises:
        CalibrationError: The configured false-positive rate is smaller than the calibration can promise.
    """
    detector = warm.detectors[0]
    classifier, calibration, manifest = detector.classifier, detector.calibration, detector.manifest
    height, width = classifier.input_size
    count = len(calibration.scores)
    info = pb.DetectorInfo(
        name=name,
        version=hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()[:16]
        if manifest
        else classifier.fingerprint[:16],
        server_version=_release(),
        classifier=pb.ClassifierInfo(
            source=manifest.classifier.source if manifest else "",
            classes=classifier.classes,
            fingerprint=classifier.fingerprint,
            input_height=height,
            input_width=width,
        ),
        evidence=EVIDENCE,
        heatmap_formats=[pb.HEATMAP_FORMAT_FLOAT, pb.HEATMAP_FORMAT_PNG_OVERLAY],
        families=manifest.families if manifest else (),
        default_false_positive_rate=_default_rate(calibration, config.false_positive_rate),
        calibration_size=count,
        smallest_false_positive_rate=1 / (count + 1),
        operating_points=[
            pb.OperatingPoint(false_positive_rate=rate, threshold=threshold)
            for rate, threshold in sorted(calibration.operating_points().items())
        ],
        measured=_measured(manifest.measured if manifest else {}),
        limits=pb.Limits(
            max_image_bytes=config.max_image_bytes,
            max_image_pixels=config.max_image_pixels,
            max_batch=config.images_per_call,
            max_top_k=MAX_TOP_K,
            max_message_bytes=config.max_message_bytes,
        ),
    )
    return Loaded(warm, info)


def _default_rate(calibration: Calibration, configured: float | None) -> float:
    if configured is not None:
        try:
            calibration.threshold(configured)
        except CalibrationError as error:
            raise CalibrationError(f"false_positive_rate = {configured} cannot be promised: {error}") from error
        return configured
    rate = min(rate for rate in calibration.operating_points() if rate >= PREFERRED_RATE)
    if rate > PREFERRED_RATE:
        log.warning(
            "too few calibration images for the usual false-positive rate",
            extra={"images": len(calibration.scores), "usual": PREFERRED_RATE, "default": rate},
        )
    return rate


def to_verdict(ask: Ask, answer: Answer, loaded: Loaded, decode_s: float, total_s: float, png: bytes) -> pb.Verdict:
    """Writes the answer to one request; `png` is the overlay where one was asked for."""
    verdict, names = answer.verdict, loaded.detector.classifier.classes
    message = pb.Verdict(
        request_id=ask.request_id,
        predicted=_labels([(verdict.label, verdict.probability)], names)[0],
        top=_labels(verdict.top[: ask.top_k], names),
        attack_score=verdict.attack_score,
        p_value=verdict.p_value,
        attacked=verdict.p_value <= ask.false_positive_rate,
        false_positive_rate=ask.false_positive_rate,
        recovered=_labels(verdict.recovered, names),
        corrected=_labels([verdict.corrected], names)[0],
        timings={
            "queue_ms": answer.queue_s * 1e3,
            "decode_ms": decode_s * 1e3,
            "compute_ms": answer.compute_s * 1e3,
            "total_ms": total_s * 1e3,
            "batch_size": answer.batch_size,
        },
        detector_version=loaded.info.version,
    )
    if ask.heatmap == pb.HEATMAP_FORMAT_FLOAT:
        height, width = verdict.heatmap.shape
        data = verdict.heatmap.astype("<f4").tobytes()
        message.heatmap.map.CopyFrom(pb.FloatMap(data=data, height=height, width=width))
    elif ask.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
        message.heatmap.png = png
    return message


def _release() -> str:
    try:
        return metadata.version("heatward")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _labels(pairs: Iterable[tuple[int, float]], names: Sequence[str]) -> list[dict[str, Any]]:
    """`Label`s; as dictionaries, for a message made to be copied into another costs twice the time."""
    known = len(names)
    return [
        {"index": index, "name": names[index] if index < known else "", "probability": probability}
        for index, probability in pairs
    ]


def _measured(measured: Mapping[str, Any]) -> list[pb.MeasuredRates]:
    """Reads what evaluation wrote into the bundle; whatever is missing or of another shape stays unset."""
    attacks = measured.get("attacks")
    return [
        pb.MeasuredRates(
            attack=str(_at(attack, "label")),
            auroc=_number(attack, "auroc", "value"),
            tpr_at_1_percent=_number(attack, "tpr", "0.01", "value"),
            tpr_at_5_percent=_number(attack, "tpr", "0.05", "value"),
            recovery=_number(attack, "recovery", "all", "top1", "value"),
        )
        for attack in (attacks if isinstance(attacks, list) else [])
    ]


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _number(tree: Any, *path: str) -> float | None:
    value = _at(tree, *path)
    return float(value) if isinstance(value, int | float) else None

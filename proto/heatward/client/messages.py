"""Between the contract's messages and the client's dataclasses: requests go out, answers come in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from heatward.client import checks
from heatward.client.values import (
    CalibrationGroup,
    CascadeInfo,
    ClassifierInfo,
    DetectorInfo,
    Failure,
    Heatmap,
    Label,
    Limits,
    MeasuredRates,
    OperatingPoint,
    PatchInfo,
    TailEstimate,
    Timings,
    Verdict,
)
from heatward.errors import Violation, status_parts
from heatward.images import ImageInput, image_message
from heatward.v1 import detection_pb2 as pb

__all__ = [
    "HeatmapChoice",
    "detect_request",
    "detect_template",
    "detector_info",
    "pack",
    "result",
    "timeout_ms",
    "verdict",
]

T = TypeVar("T")

HeatmapChoice = Literal["float", "png"]

MAX_TIMEOUT_MS = 2**32 - 1

HEATMAP_FORMATS: dict[str, pb.HeatmapFormat] = {
    "float": pb.HEATMAP_FORMAT_FLOAT,
    "png": pb.HEATMAP_FORMAT_PNG_OVERLAY,
}
HEATMAP_NAMES = {number: name for name, number in HEATMAP_FORMATS.items()}


def detect_template(
    false_positive_rate: float | None = None,
    heatmap: HeatmapChoice | None = None,
    top_k: int | None = None,
    max_error_rate: float | None = None,
    look_for_patches: bool = False,
) -> pb.DetectRequest:
    """A request without its image; None leaves a choice to the server."""
    if heatmap is not None and not (isinstance(heatmap, str) and heatmap in HEATMAP_FORMATS):
        expected = ", ".join(map(repr, HEATMAP_FORMATS))
        raise ValueError(f"heatmap is None or one of {expected}; this is {checks.shown(heatmap)}")
    options = pb.Options(top_k=0 if top_k is None else checks.count("top_k", top_k))
    if heatmap is not None:
        options.heatmap = HEATMAP_FORMATS[heatmap]
    if false_positive_rate is not None:
        options.false_positive_rate = checks.rate("false_positive_rate", false_positive_rate)
    if max_error_rate is not None:
        options.max_error_rate = checks.rate("max_error_rate", max_error_rate)
    options.look_for_patches = checks.flag("look_for_patches", look_for_patches)
    return pb.DetectRequest(options=options)


def detect_request(
    image: ImageInput, template: pb.DetectRequest, request_id: str = "", timeout_s: float | None = None
) -> pb.DetectRequest:
    """The template with an image; `timeout_s` is the image's own deadline, for streams."""
    return pb.DetectRequest(
        request_id=request_id,
        image=image_message(image),
        options=template.options,
        timeout_ms=0 if timeout_s is None else timeout_ms(timeout_s),
    )


def pack(
    image: ImageInput, template: pb.DetectRequest, request_id: str = "", timeout_s: float | None = None
) -> pb.DetectRequest | Failure:
    """As `detect_request`; what is no image, or cannot be read, is a failure among its neighbours."""
    try:
        return detect_request(image, template, request_id, timeout_s)
    except (OSError, TypeError, ValueError) as error:
        return Failure("INVALID_ARGUMENT", str(error), (Violation("image", str(error)),), request_id=request_id)


def timeout_ms(seconds: float) -> int:
    """As the contract writes it; 0 would be none."""
    return min(max(round(seconds * 1e3), 1), MAX_TIMEOUT_MS)


def verdict(message: pb.Verdict) -> Verdict:
    kind = message.heatmap.WhichOneof("content")
    decided, detailed = message.false_positive_rate > 0, message.p_value > 0  # 0, which is neither: it is not told
    return _values(
        Verdict,
        message,
        attacked=message.attacked if decided else None,
        false_positive_rate=message.false_positive_rate if decided else None,
        p_value=message.p_value if detailed else None,
        attack_score=message.attack_score if detailed else None,
        predicted=_label(message.predicted),
        top=tuple(map(_label, message.top)),
        recovered=tuple(map(_label, message.recovered)),
        corrected=_label(_corrected(message)) if detailed else None,
        timings=_values(Timings, message.timings) if message.HasField("timings") else None,
        heatmap=_values(Heatmap, message.heatmap.map) if kind == "map" else None,
        heatmap_png=message.heatmap.png if kind == "png" else None,
        tail_estimate=_values(TailEstimate, message.tail_estimate) if message.HasField("tail_estimate") else None,
    )


def result(message: pb.DetectResult) -> Verdict | Failure:
    """One item of a batch or a stream."""
    if message.WhichOneof("result") == "verdict":
        return verdict(message.verdict)
    if message.status.code == 0:
        return Failure("INTERNAL", "the server sent neither a verdict nor a status", request_id=message.request_id)
    code, text, violations, retry_after_s = status_parts(message.status)
    return Failure(code, text, violations, retry_after_s, message.request_id)


def detector_info(message: pb.DetectorInfo) -> DetectorInfo:
    return _values(
        DetectorInfo,
        message,
        classifier=_values(ClassifierInfo, message.classifier, classes=tuple(message.classifier.classes)),
        evidence=tuple(message.evidence),
        heatmap_formats=tuple(HEATMAP_NAMES[f] for f in message.heatmap_formats if f in HEATMAP_NAMES),
        families=tuple(message.families),
        operating_points=_points(message.operating_points),
        measured=tuple(_values(MeasuredRates, rates) for rates in message.measured),
        limits=_values(Limits, message.limits),
        calibration_groups=tuple(
            _values(CalibrationGroup, group, operating_points=_points(group.operating_points))
            for group in message.calibration_groups
        ),
        cascade=_values(CascadeInfo, message.cascade) if message.HasField("cascade") else None,
        patches=_values(PatchInfo, message.patches) if message.HasField("patches") else None,
    )


def _points(messages: Iterable[pb.OperatingPoint]) -> tuple[OperatingPoint, ...]:
    return tuple(_values(OperatingPoint, point) for point in messages)


def _values(kind: type[T], message: Any, **given: Any) -> T:
    """The dataclass whose other fields the message has by the same names; an optional one that is not set is None."""
    known = message.DESCRIPTOR.fields_by_name
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        if name not in given:
            is_set = not known[name].has_presence or message.HasField(name)
            given[name] = getattr(message, name) if is_set else None
    return kind(**given)


def _label(message: pb.Label) -> Label:
    return Label(message.index, message.name, message.probability)


def _corrected(message: pb.Verdict) -> pb.Label:
    """Of an older server, which has no such field, the first of `recovered`: there it answered this question."""
    if message.HasField("corrected"):
        return message.corrected
    return message.recovered[0] if message.recovered else message.predicted

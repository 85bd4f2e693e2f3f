"""A `ServedModel` → **the contract's `DetectorInfo`**."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heatward.v1 import detection_pb2 as pb

from detector.detector import Detector
from detector.scoring.calibration import Calibration
from server.access.disclosure import Disclosure
from server.config import ServerConfig
from server.models.served_model import ServedModel
from server.protocols.options import MAX_TOP_K
from server.surroundings import release

__all__ = ["to_info"]


def to_info(model: ServedModel, config: ServerConfig, disclosure: Disclosure = Disclosure.FULL) -> pb.DetectorInfo:
    """Writes down what is loaded, with the limits of the server; of the detector as much as the caller may know."""
    height, width = model.input_size
    info = pb.DetectorInfo(
        name=model.name,
        version=model.version,
        server_version=release(),
        classifier=pb.ClassifierInfo(
            source=model.source,
            classes=model.classes,
            fingerprint=model.detector.classifier.fingerprint,
            input_height=height,
            input_width=width,
        ),
        limits=pb.Limits(
            max_image_bytes=config.max_image_bytes,
            max_image_pixels=config.max_image_pixels,
            max_batch=config.images_per_call,
            max_top_k=MAX_TOP_K,
            max_message_bytes=config.max_message_bytes,
        ),
    )
    if disclosure is not Disclosure.NONE:
        info.default_false_positive_rate = model.default_rate
        info.smallest_false_positive_rate = model.smallest_rate
    if disclosure is Disclosure.FULL:
        info.MergeFrom(_details(model))
    return info


def _details(model: ServedModel) -> pb.DetectorInfo:
    """How the detector judges, and how well."""
    manifest, groups = model.detector.manifest, model.detector.groups
    return pb.DetectorInfo(
        evidence=_evidence(manifest.network if manifest else {}),
        heatmap_formats=[pb.HEATMAP_FORMAT_FLOAT, pb.HEATMAP_FORMAT_PNG_OVERLAY],
        families=manifest.families if manifest else (),
        calibration_size=model.calibration_size,
        operating_points=() if groups else _points(model.detector.calibration),
        measured=_measured(manifest.measured if manifest else {}),
        smallest_error_rate=model.smallest_error_rate,
        calibration_groups=[
            pb.CalibrationGroup(name=name, size=len(each.scores), operating_points=_points(each))
            for name, each in zip(groups.names(model.classes), groups.calibrations, strict=True)
        ]
        if groups
        else (),
        has_tail=any(model.detector.tails),
        cascade=_cascade(model.detector),
        patches=_patches(model),
    )


def _patches(model: ServedModel) -> pb.PatchInfo | None:
    if model.looking_for_patches is None or model.detector.patches is None:
        return None
    covering = model.detector.patches.covering
    return pb.PatchInfo(area=covering.area, side=covering.side, masks=len(covering.windows))


def _cascade(detector: Detector) -> pb.CascadeInfo | None:
    if detector.cascade is None:
        return None
    cleared = float((detector.calibration.scores < 0).double().mean())
    return pb.CascadeInfo(share_asked=detector.cascade.clears, share_cleared=cleared)


def _points(calibration: Calibration) -> list[pb.OperatingPoint]:
    return [
        pb.OperatingPoint(false_positive_rate=rate, threshold=threshold)
        for rate, threshold in sorted(calibration.operating_points().items())
    ]


def _evidence(network: Mapping[str, Any]) -> list[str]:
    """Names of the groups that its networks read."""
    return list(network.get("shape", {}).get("groups", ()))


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
            images=_count(attack, "auroc", "count"),
        )
        for attack in (attacks if isinstance(attacks, list) else [])
    ]


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _count(tree: Any, *path: str) -> int | None:
    value = _at(tree, *path)
    return value if isinstance(value, int) and value >= 0 else None


def _number(tree: Any, *path: str) -> float | None:
    value = _at(tree, *path)
    return float(value) if isinstance(value, int | float) else None

"""New thresholds without retraining: a bundle and recent clean images in, the same bundle with their scores out.

    images (with --delivered also as they arrive: arriving.py)
           ─▶ the bundle's own detector ─▶ scores ─▶ without the share that may be attacked ─▶ calibration
                  (and, where it looks for patches, those under masks ─▶ the same ─▶ calibration of patches)

What the bundle was measured to flag belongs to its old thresholds, and goes; what needs no threshold stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.bundle import Bundle
from detector.detector import Detector
from detector.errors import CalibrationError, DataError, ImageError
from detector.images import decode
from detector.scoring.calibration import Calibration, one_of_each, rank_at
from detector.scoring.cascade import check_vouched
from detector.scoring.groups import Groups
from detector.scoring.patches import answers_under, score_of
from detector.scoring.tail import FEWEST_FOR_TAIL
from training.data.folders import find_images
from training.deliveries import DeliverySpec
from training.devices import device_named
from training.evaluation.result import Result
from training.fitting.calibration import describe
from training.progress import Progress
from training.retraining.arriving import learnt, versions, ways_of
from training.retraining.comparison import ATTACKS
from training.retraining.robust import breakdown, needed, suspicious, trimmed
from training.settings import CalibrateSettings
from training.shards import digest

__all__ = ["Options", "Recalibration", "images_in", "recalibrate"]

Pixels = NDArray[np.uint8]
BATCH = 32


@dataclass(frozen=True)
class Options:
    """What a recalibration is told."""

    rate: float = 0.01
    """The false-positive rate that must be reached, and of which is told."""
    attacked_share: float | None = None
    """The share of the images that may be attacked: so many of the highest scores are left out. None: 0, but refuse
    images that look attacked."""
    by: Literal["prediction", "all"] | None = None
    """Which images one is ranked among: those of its predicted class, or all. None: as before."""
    tail: bool = False
    """Whether to estimate how rare scores above all others are; where it was so before, it stays so."""
    delivered: bool = False
    """Whether an image also counts as it arrives in every way that the bundle learnt; still once in all."""
    arrived: bool = False
    """Whether the images are as they arrived, recorded by a server."""


class Recalibration(Result):
    """What changed."""

    images: int
    """Different images that could be read."""
    copies: int
    unreadable: int
    left_out: int
    """Of the images: the highest scores, which may be attacked."""
    rate: float
    threshold_before: float | None
    """None: so few clean images could not promise the rate."""
    threshold: float
    flagged_before: float
    """Share of these images that the old thresholds flag at the rate."""
    useless_at: float
    """Share of the images that, attacked, would move the threshold to the median score of an attack."""
    useless_for: str
    """That attack; empty: no median is known, and the share is an upper bound."""
    groups: dict[str, int]
    """Images by predicted class, where they calibrate apart; otherwise empty."""
    warnings: tuple[str, ...]


def images_in(folder: Path, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """Name and content of every image file below a folder.

    Raises:
        DataError: It is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"--clean {folder}: there is no such folder")
    found = find_images([folder])
    for note in found.notes():
        progress.note(f"{folder}: {note}")
    if not found.files[0]:
        raise DataError(f"--clean {folder} holds no image")
    for path in found.files[0]:
        yield str(path), path.read_bytes()


def recalibrate(
    bundle: Bundle,
    images: Iterable[tuple[str, bytes]],
    options: Options,
    progress: Progress,
    *,
    device: str = "cpu",
    allow: Collection[str] = (),
) -> tuple[Bundle, Recalibration]:
    """Calibrate a bundle anew.

    Args:
        bundle: What is calibrated.
        images: Names and files of recent images that nobody attacked.
        options: How.
        progress: Told of images, and of those that cannot be read.
        device: Where to compute.
        allow: Modules that a `python:` classifier may come from.

    Raises:
        CalibrationError: Too few images, or they look attacked and no `attacked_share` was given.
        HeatwardError: The bundle cannot be used.
    """
    ways = ways_of(bundle) if options.delivered else ()
    detector = Detector.assemble(bundle, device=device_named(device), allow=allow)
    seen: set[str] = set()
    counts = {"copies": 0, "unreadable": 0}
    scores: list[float] = []
    labels: list[int] = []
    masked: list[Tensor] = []
    with progress.task("recalibrate", 0) as advance:
        for batch in _batches(detector, images, ways, seen, counts, progress):
            shown = batch.flatten(0, 1)
            verdicts = detector.detect(shown)
            if detector.patches is not None:
                answers = answers_under(detector.patches.covering, detector.classifier, shown)
                masked.append(score_of(answers, torch.tensor([verdict.label for verdict in verdicts])).double())
            scores += [verdict.attack_score for verdict in verdicts]
            labels += [verdict.label for verdict in verdicts]
            advance(len(batch))
    every, predictions = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.int64)
    source, as_it_is = torch.arange(len(every)) // (1 + len(ways)), slice(None, None, 1 + len(ways))
    found, predicted = every[as_it_is], predictions[as_it_is]
    settings = _settings(bundle, options)
    keep = _keep(every, predictions if settings.by else torch.zeros_like(predictions), options.attacked_share or 0.0)
    kept = torch.from_numpy(one_of_each(every[keep].numpy(), source[keep].numpy()))
    classes = detector.classifier.classes
    _check_enough(len(found), len(kept), options)
    calibration, groups = Calibration.fit(kept), None
    if settings.by:
        apart = (each[keep].numpy() for each in (every, predictions, source))
        groups = Groups.fit(*apart, classes=detector.classifier.num_classes, rate=settings.rate)
    if detector.cascade is not None:
        check_vouched(calibration, groups, classes)
    said, notes = describe(calibration, groups, settings, classes)
    told = _told(detector, found, predicted, kept, options)
    told["warnings"] += (*(_of_one_group(groups, options.rate) if groups else ()), *notes)
    told["warnings"] += _of_ways(bundle, options, left_out=int((~keep).sum()), scores=len(keep))
    new = replace(
        bundle,
        calibration_scores=calibration.scores,
        calibration_groups=groups.tensors() if groups else None,
        patches=_patches(torch.cat(masked), source, options) if masked else None,
        manifest=_manifest(bundle, calibration, said, seen, options),
    )
    counts |= {"images": len(found), "left_out": len(found) - len(kept)}
    return new, Recalibration(rate=options.rate, groups=said.get("groups", {}), **counts, **told)


def _settings(bundle: Bundle, options: Options) -> CalibrateSettings:
    """What is asked for, or else what the bundle has."""
    before: Any = bundle.manifest.calibration
    by = before.get("by") if options.by is None else options.by
    tail = options.tail or before.get("tail") is True
    return CalibrateSettings(by="prediction" if by == "prediction" else None, rate=options.rate, tail=tail)


def _keep(scores: Tensor, groups: Tensor, attacked_share: float) -> Tensor:
    """Rows (n,) without the highest scores of each group: as many as may be attacked, if attacks are spread evenly."""
    keep = torch.ones(len(scores), dtype=torch.bool)
    for group in set(groups.tolist()):
        rows = (groups == group).nonzero().flatten()
        keep[rows[scores[rows].argsort()[len(trimmed(scores[rows], attacked_share)) :]]] = False
    return keep


def _patches(scores: Tensor, source: Tensor, options: Options) -> dict[str, Tensor]:
    """What these images score under masks, one of each photograph, as a bundle holds it; some may have a patch, too."""
    keep = _keep(scores, torch.zeros_like(source), options.attacked_share or 0.0)
    kept = one_of_each(scores[keep].numpy(), source[keep].numpy())
    return {"scores": Calibration.fit(torch.from_numpy(kept)).scores}


def _of_one_group(groups: Groups, rate: float) -> tuple[str, ...]:
    fewest = len(groups.scarcest.scores)
    return (
        f"an attacker needs fewer images for the threshold of one predicted class: {2 * rank_at(rate, fewest)} of the "
        f"{fewest} of the smallest group; --attacked-share takes attacks to be spread evenly over the classes",
    )


def _of_ways(bundle: Bundle, options: Options, *, left_out: int, scores: int) -> tuple[str, ...]:
    if options.delivered:
        said = f"{left_out} of {scores} scores were left out: an image counts until no way that it arrives in is left"
        return (said,) if left_out else ()
    if options.arrived or not (ways := learnt(bundle)):
        return ()
    return (
        f"the bundle learnt how images arrive ({', '.join(ways)}), and these thresholds are of the images as they are: "
        "--delivered counts them as they arrive, too",
    )


def _batches(
    detector: Detector,
    images: Iterable[tuple[str, bytes]],
    ways: Sequence[DeliverySpec],
    seen: set[str],
    counts: dict[str, int],
    progress: Progress,
) -> Iterator[Tensor]:
    """(n, 1 + ways, 3, h, w), n different photographs as they are and as they arrive."""
    batch: list[Tensor] = []
    for name, content in images:
        try:
            pixels = decode(content)
        except ImageError as error:
            counts["unreadable"] += 1
            progress.note(f"{name}: left out: {error}")
            continue
        identity = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        if identity in seen:  # an image that comes again is no new evidence
            counts["copies"] += 1
            continue
        seen.add(identity)
        batch.append(versions(detector.classifier, pixels, ways, seed=int(identity[:8], 16)))
        if len(batch) == BATCH:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def _check_enough(count: int, left: int, options: Options) -> None:
    fewest = needed(options.rate)
    if left < fewest:
        raise CalibrationError(
            f"{count} different images that can be read, {left} without those that may be attacked: a false-positive "
            f"rate of {options.rate:g} needs {fewest}. Give more images, or a larger --rate"
        )
    if options.tail and left < FEWEST_FOR_TAIL:
        raise CalibrationError(
            f"--tail: an estimate needs {FEWEST_FOR_TAIL} images, {left} are left: give more, or leave --tail out"
        )


def _told(detector: Detector, found: Tensor, predicted: Tensor, kept: Tensor, options: Options) -> dict[str, Any]:
    rate, count = options.rate, len(found)
    try:
        before = detector.calibration.threshold(rate)
    except CalibrationError:
        before = None
    flagged = int((detector.p_value(found, predicted) <= rate).sum())
    broken = breakdown(kept, rate, _medians(detector))
    enough = f"{broken.attacked} of them ({broken.share:.1%})" + ("" if broken.attack else ", or fewer,")
    warnings = [
        f"these images are taken to be clean. Were {enough} attacked, the threshold at {rate:g} would "
        f"reach the median score of {broken.attack or 'an attack'}: half of such attacks would pass. --attacked-share "
        "withstands a share that you name"
    ]
    excess = suspicious(flagged, count, rate)
    if excess:
        said = (
            f"the old thresholds flag {flagged} of {count} images ({flagged / count:.1%}) at a false-positive rate of "
            f"{rate:g}: either what is photographed has changed, or at least {excess:.1%} of them are attacked"
        )
        if options.attacked_share is None:
            raise CalibrationError(
                f"{said}. Look at them; --attacked-share {flagged / count - rate:.3f} leaves out the highest "
                "scores, or --attacked-share 0 if all are clean"
            )
        warnings.append(said)
    return {
        "threshold_before": before,
        "threshold": Calibration.fit(kept).threshold(rate),
        "flagged_before": flagged / count,
        "useless_at": broken.share,
        "useless_for": broken.attack,
        "warnings": tuple(warnings),
    }


def _medians(detector: Detector) -> dict[str, float]:
    """Median score of each attack, as `heatward retrain` left them in the manifest."""
    compared: Any = detector.manifest.provenance.get("compared") if detector.manifest else None
    rows = compared.get("rows", []) if isinstance(compared, dict) else []
    return {
        row["label"]: row["median"] for row in rows if row.get("group") in ATTACKS and row.get("median") is not None
    }


def _manifest(
    bundle: Bundle, calibration: Calibration, described: dict[str, Any], seen: set[str], options: Options
) -> Any:
    manifest = bundle.manifest
    all_together = {} if "by" in described else calibration.operating_points()
    points = {str(rate): cut for rate, cut in all_together.items()}
    said = {
        "images": len(seen),
        "images_sha256": digest(sorted(seen)),
        "rate": options.rate,
        "attacked_share": options.attacked_share or 0.0,
        "delivered": options.delivered,
    }
    known = {**manifest.provenance, "parent": manifest.digest, "recalibrated": said}
    return manifest.model_copy(
        update={
            "operating_points": points,
            "calibration": described,
            "measured": _without_thresholds(manifest.measured),
            "provenance": known,
        }
    )


def _without_thresholds(measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured, without what belongs to thresholds."""
    attacks = []
    for attack in measured.get("attacks", []):
        kept = {name: each for name, each in attack.items() if name not in ("tpr", "tpr_on_correct")}
        if "recovery" in kept:
            kept["recovery"] = {name: each for name, each in kept["recovery"].items() if name == "all"}
        attacks.append(kept)
    return {name: each for name, each in measured.items() if name != "false_positives"} | (
        {"attacks": attacks} if attacks else {}
    )

"""What is measured of one detector: its answers (`Scored`) in, estimates with bootstrap intervals out.

    one attack, one detector      detected, attempted
    several attacks               macro
    by predicted class            alarms_by_class
    images that nobody attacked   false_positives, corruption_alarms
    the detector in use           traffic (correct what is flagged), mead (all attacks of an image), class_errors

An image is flagged where its score exceeds a threshold that clean calibration images set before any test image was
looked at. Positives are attacks that changed a right prediction; negatives of an AUROC are rightly classified clean
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.scoring.groups import Groups
from training.config import CLEAN
from training.evaluation.metrics import Bootstrap, Estimate, auroc, lowest, mean_of, roc_curve
from training.evaluation.result import (
    AttackResult,
    ByRate,
    ClassAlarms,
    ClassErrors,
    Corruption,
    CorruptionMean,
    Corruptions,
    Curve,
    Detection,
    DetectionWithCurve,
    MeanResult,
    Tops,
    Traffic,
)
from training.evaluation.scores import Attempts, Scored
from training.evaluation.thresholds import RATES, Cut, Cuts, Thresholds, alarms_of, cuts_by_class

__all__ = [
    "CLEAN_SHARE",
    "RATES",
    "Cuts",
    "Thresholds",
    "alarms_by_class",
    "attempted",
    "aurocs",
    "class_errors",
    "corruption_alarms",
    "detected",
    "false_positives",
    "macro",
    "mead",
    "summarise",
    "traffic",
]

CLEAN_SHARE = 0.8
TOPS = (1, 2, 5)  # likeliest origin labels counted
ROC_POINTS = 100

MEANS: dict[Literal["mean", "worst"], Callable[[Sequence[Estimate]], Estimate]] = {"mean": mean_of, "worst": lowest}


def attempted(attempts: Attempts, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """How often an attack works, and how far its successes are from the clean image."""
    won = attempts.success
    sized = won & np.isfinite(attempts.linf)  # of collected images the original may be unknown
    return {
        "success_rate": bootstrap.rate(won, attempts.source),
        "linf": bootstrap.mean(attempts.linf[sized], attempts.source[sized]),
        "l2": bootstrap.mean(attempts.l2[sized], attempts.source[sized]),
    }


def detected(attacked: Scored, clean: Scored, thresholds: Thresholds, bootstrap: Bootstrap) -> DetectionWithCurve:
    """One detector against one attack: AUROC, share flagged, labels recovered, ROC curve.

    Positives are attacks on images that were rightly classified, negatives clean images that are.
    """
    attacked, negative = attacked[attacked.fair], clean[clean.correct]
    alarms = {rate: alarms_of(attacked, cut) for rate, cut in thresholds.served.items()}
    fpr, tpr = roc_curve(attacked.score, negative.score, ROC_POINTS)
    everything = np.ones(len(attacked), dtype=np.bool_)
    return DetectionWithCurve(
        auroc=bootstrap.auroc(attacked.score, attacked.source, negative.score, negative.source),
        tpr=_share_flagged(attacked, thresholds.served, bootstrap),
        tpr_on_correct=_share_flagged(attacked, thresholds.on_correct, bootstrap),
        recovery={
            "all": _recovered(attacked, everything, bootstrap),
            **{f"flagged at {rate}": _recovered(attacked, hits, bootstrap) for rate, hits in alarms.items()},
        },
        roc=Curve(fpr=np.round(fpr, 5).tolist(), tpr=np.round(tpr, 5).tolist()),
    )


def aurocs(attacked: Sequence[Scored], clean: Sequence[Scored]) -> list[float | None]:
    """AUROC of each of several detectors, without intervals; None where nothing was attacked."""
    pairs = [(each[each.fair].score, other[other.correct].score) for each, other in zip(attacked, clean, strict=True)]
    return [float(auroc(*pair)) if all(map(len, pair)) else None for pair in pairs]


def summarise(found: Sequence[Detection], how: Callable[[Sequence[Estimate]], Estimate]) -> Detection:
    """Results of several attacks as one, without the curve."""
    return Detection(**{name: _merged([getattr(each, name) for each in found], how) for name in Detection.model_fields})


def _merged(found: Sequence[Any], how: Callable[[Sequence[Estimate]], Estimate]) -> Any:
    first = found[0]
    if isinstance(first, Estimate):
        return how(found)
    if isinstance(first, Tops):
        return Tops(**{name: _merged([getattr(each, name) for each in found], how) for name in Tops.model_fields})
    return {key: _merged([each[key] for each in found], how) for key in first}


def macro(attacks: Sequence[AttackResult]) -> list[MeanResult]:
    """Mean and (of several) worst of every number over the attacks trained on, and over the unseen ones.

    Apart for each way in which images arrive.
    """
    rows = []
    ways = dict.fromkeys(attack.delivery for attack in attacks)
    for delivery, seen in ((way, seen) for way in ways for seen in (True, False)):
        found = [each.detectors for each in attacks if each.seen is seen and each.delivery == delivery]
        for label, how in MEANS.items():
            if len(found) > (label == "worst"):
                detectors = {name: summarise([each[name] for each in found], how) for name in found[0]}
                rows.append(
                    MeanResult(label=label, seen=seen, delivery=delivery, attacks=len(found), detectors=detectors)
                )
    return rows


def false_positives(unharmed: Mapping[str, Scored], thresholds: Thresholds, bootstrap: Bootstrap) -> dict[str, ByRate]:
    """Alarms on images that were not attacked: clean ones, rightly and wrongly classified, and noise twins."""
    clean = unharmed[CLEAN]
    correct = clean[clean.correct]
    groups = {**unharmed, "clean, correct": correct, "clean, misclassified": clean[~clean.correct]}
    rates = {name: _share_flagged(group, thresholds.served, bootstrap) for name, group in groups.items()}
    return rates | {"clean, correct (own threshold)": _share_flagged(correct, thresholds.on_correct, bootstrap)}


def corruption_alarms(
    labels: Mapping[str, tuple[str, int]], scores: Mapping[str, Scored], cuts: Cuts, bootstrap: Bootstrap
) -> Corruptions:
    """Alarms on corrupted images that are rightly classified after the corruption.

    Args:
        labels: label to kind and severity.
        scores: label to answers.
        cuts: thresholds.
        bootstrap: draws the intervals.

    Returns:
        One cell a label; means over severities 1–2 and 1–5 of each kind, and at last of all kinds.
    """
    cells = []
    for label, (kind, severity) in labels.items():
        right = scores[label][scores[label].correct]
        alarms = _share_flagged(right, cuts, bootstrap)
        cells.append(Corruption(kind=kind, severity=severity, images=len(scores[label]), flagged=alarms))

    def mean(kinds: Sequence[str], hardest: int) -> ByRate:
        chosen = [cell.flagged for cell in cells if cell.kind in kinds and cell.severity <= hardest]
        return {rate: mean_of([alarms[rate] for alarms in chosen]) for rate in cuts}

    kinds = list(dict.fromkeys(kind for kind, _ in labels.values()))
    rows = [*((kind, [kind]) for kind in kinds), ("mean", kinds)]
    means = [CorruptionMean(kind=name, light=mean(chosen, 2), every=mean(chosen, 5)) for name, chosen in rows]
    return Corruptions(cells=tuple(cells), means=tuple(means))


def traffic(clean: Scored, attacked: Sequence[Scored], cuts: Cuts, bootstrap: Bootstrap) -> Traffic:
    """Accuracy against the truth on 80 % clean images and 20 % successful attacks, an equal share of each attack.

    `corrected`, `recovered`: where an image is flagged, the label of that name replaces the prediction. Images of
    unknown truth and attacks that never worked are left out.
    """

    def accuracy(cut: Cut, answer: str = "corrected") -> Estimate:
        on_clean = _accuracy(clean, cut, answer, bootstrap)
        on_attacked = mean_of([_accuracy(each, cut, answer, bootstrap) for each in attacked])
        if on_attacked.count == 0:  # no attack worked: there is no such mixture
            return on_attacked
        return mean_of([on_clean, on_attacked], [CLEAN_SHARE, 1 - CLEAN_SHARE])

    return Traffic(
        uncorrected=accuracy(math.inf),
        corrected={rate: accuracy(cut, "corrected") for rate, cut in cuts.items()},
        recovered={rate: accuracy(cut, "recovered") for rate, cut in cuts.items()},
    )


def mead(attempts: Sequence[Attempts], attacked: Sequence[Scored], cuts: Cuts, bootstrap: Bootstrap) -> ByRate:
    """Share of images all of whose successful attacks are flagged (the rule of MEAD, Granese et al. 2022).

    Counted on the images that every attack was tried on and at least one fooled. Collected images are no attempts: they
    show photographs that others may not have.
    """
    if not attempts:
        return {rate: bootstrap.rate(np.zeros(0, np.bool_), np.zeros(0, np.int64)) for rate in cuts}
    tried = reduce(np.intersect1d, (each.source for each in attempts))
    every = Scored.cat(attacked)
    shown = every[np.isin(every.source, tried)]
    images, image = np.unique(shown.source, return_inverse=True)
    missed = {rate: np.bincount(image[~alarms_of(shown, cut)], minlength=len(images)) for rate, cut in cuts.items()}
    return {rate: bootstrap.rate(count == 0, images) for rate, count in missed.items()}


def class_errors(clean: Scored, attacked: Sequence[Scored], cut: Cut, classes: Sequence[str]) -> list[ClassErrors]:
    """Counts for every class that occurs: clean images of it and alarms on them; attacks on it, missed and misread.

    A clean image is of its true class (of the predicted one where the truth is unknown), an attack of its origin label.
    """
    shown = np.where(clean.truth >= 0, clean.truth, clean.prediction)
    origin = np.concatenate([each.origin for each in attacked])
    missed = np.concatenate([~alarms_of(each, cut) for each in attacked])
    misread = np.concatenate([each.recovered[:, 0] != each.origin for each in attacked])
    counts = {
        "clean": np.bincount(shown, minlength=len(classes)),
        "false_positives": np.bincount(shown[alarms_of(clean, cut)], minlength=len(classes)),
        "attacks": np.bincount(origin, minlength=len(classes)),
        "misses": np.bincount(origin[missed], minlength=len(classes)),
        "wrong_recoveries": np.bincount(origin[misread], minlength=len(classes)),
    }
    return [
        ClassErrors(name=name, **{what: int(count[index]) for what, count in counts.items()})
        for index, name in enumerate(classes)
        if counts["clean"][index] or counts["attacks"][index]
    ]


def alarms_by_class(
    clean: Scored, every: Cuts, groups: Groups | None, classes: Sequence[str], bootstrap: Bootstrap
) -> list[ClassAlarms]:
    """Alarms on clean images by predicted class, at thresholds of all clean calibration images and of those of a class.

    Args:
        clean: test images.
        every: thresholds of all.
        groups: the calibration by predicted class; None where there are too few images for it.
        classes: names.
        bootstrap: draws the intervals.
    """
    own = cuts_by_class(groups) if groups else {}
    rows = []
    for index, name in enumerate(classes):
        shown = clean[clean.prediction == index]
        if len(shown):
            rows.append(
                ClassAlarms(
                    name=name,
                    calibrated=groups.sizes[int(groups.of_class[index])] if groups else 0,
                    together=_share_flagged(shown, every, bootstrap),
                    apart={
                        rate: rates
                        for rate, rates in _share_flagged(shown, own, bootstrap).items()
                        if not isinstance(own[rate], float)
                    },
                )
            )
    return rows


def _share_flagged(scored: Scored, cuts: Cuts, bootstrap: Bootstrap) -> ByRate:
    return {rate: bootstrap.rate(alarms_of(scored, cut), scored.source) for rate, cut in cuts.items()}


def _recovered(attacked: Scored, rows: NDArray[np.bool_], bootstrap: Bootstrap) -> Tops:
    chosen = attacked[rows]
    hit = chosen.recovered == chosen.origin[:, None]
    return Tops(**{f"top{top}": bootstrap.rate(hit[:, :top].any(axis=1), chosen.source) for top in TOPS})


def _accuracy(scored: Scored, cut: Cut, answer: str, bootstrap: Bootstrap) -> Estimate:
    known = scored[scored.truth >= 0]
    mended = known.corrected if answer == "corrected" else known.recovered[:, 0]
    label = np.where(alarms_of(known, cut), mended, known.prediction)
    return bootstrap.rate(label == known.truth, known.source)

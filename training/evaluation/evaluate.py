"""The evaluation: a detector and the shards of the test split in; numbers with intervals, tables and examples out.

    attack shards ────▶ success rate, size of the change
    attribute shards ─▶ attack scores and recovered labels of the detector and of the runner-up baseline
    clean calibrate ──▶ thresholds, before any test image is looked at
    attribute shards ─▶ which predictions can be relied on (reliance.py)

What is counted, and how: measures.py. Written under `work/evaluate/`: evaluation.json and .md, examples.safetensors.
`forensics.report` draws the report from these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

import heatward
import numpy as np

from detector.detector import Detector
from detector.errors import CalibrationError
from detector.files import write_file
from detector.scoring.groups import Groups
from training.config import CLEAN, TrainingConfig
from training.evaluation import measures, reliance
from training.evaluation.cost import cost_of
from training.evaluation.examples import examples, first_sources, worst_sources, write_examples
from training.evaluation.metrics import Bootstrap
from training.evaluation.result import (
    HEATWARD,
    IN_FULL,
    AttackResult,
    CascadeResult,
    ClassifierResult,
    EvaluationResult,
)
from training.evaluation.scores import Scored, by_network, from_evidence, read_attempts, runner_up
from training.evaluation.tables import markdown
from training.evaluation.thresholds import RATES, Cuts, Thresholds, regrouped
from training.progress import Progress, SilentProgress
from training.shards import list_shards

__all__ = ["DETECTORS", "run"]

DETECTORS = {
    HEATWARD: "heatmap network",
    IN_FULL: "every image in full",
    "runner-up": "runner-up logit",
}

Scores = dict[str, dict[str, Scored]]  # label → detector → answers


def run(
    config: TrainingConfig,
    detector: Detector,
    *,
    resamples: int = 1000,
    copies: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate a detector on the test split.

    Args:
        config: names the work folder with its shards, and the attacks.
        detector: the detector; its evidence settings are those that made the attribute shards.
        resamples: bootstrap draws.
        copies: split to images that are copies of another one in it.
        progress: told of shards read.

    Returns:
        What is written to `work/evaluate/evaluation.json`; the other files lie beside it.

    Raises:
        DataError: shards are missing.
    """
    progress = progress or SilentProgress()
    folder = config.work / "evaluate"
    said = [_score(config, "calibrate", label, detector, progress) for label in config.labels("calibrate")]
    calibrate = {name: Scored.cat([each[name] for each in said]) for name in said[0]}
    thresholds = {name: Thresholds.of(scored) for name, scored in calibrate.items()}
    # The detector's own: a bundle was calibrated on other clean images than this work folder's.
    calibration = detector.calibration.scores.double().numpy()
    together = {name: cuts.served for name, cuts in thresholds.items()}
    together[HEATWARD] = Thresholds.of(calibrate[HEATWARD], served=calibration).served
    thresholds[HEATWARD] = Thresholds.of(calibrate[HEATWARD], served=calibration, groups=detector.groups)
    if IN_FULL in calibrate and detector.groups is not None:  # compared as it would serve
        thresholds[IN_FULL] = Thresholds.of(calibrate[IN_FULL], groups=regrouped(detector.groups, calibrate[IN_FULL]))
    groups = detector.groups or _groups(calibrate[HEATWARD], detector.classifier.num_classes)
    scores: Scores = {label: _score(config, "test", label, detector, progress) for label in config.labels("test")}
    labels = [attack.label for attack in config.every_attack]
    attempts = {label: read_attempts(list_shards(config.work, "attack", "test", label)) for label in labels}
    alone = {label: _alone(detector, scores[label]) for label in (CLEAN, *labels)}
    sources = [each[HEATWARD].source for each in scores.values()] + [each.source for each in attempts.values()]
    bootstrap = Bootstrap(np.concatenate(sources), resamples=resamples, seed=config.seed)

    unharmed = config.unharmed("test")
    clean = scores[CLEAN][HEATWARD]
    known = clean[clean.truth >= 0]
    attacked = {name: [scores[label][name] for label in labels] for name in scores[CLEAN]}
    made = [attempts[attack.label] for attack in config.attacks if attack.folder is None]
    attacks = [
        AttackResult(
            label=attack.label,
            name=attack.name,
            family=attack.family,
            seen=attack.train,
            delivery=way.label if (way := config.delivery(attack.label)) else "",
            parameters=dict(attack.parameters),
            attempts=len(attempts[attack.label].success),
            **measures.attempted(attempts[attack.label], bootstrap),
            detectors={
                name: measures.detected(scored, scores[CLEAN][name], thresholds[name], bootstrap)
                for name, scored in scores[attack.label].items()
            },
            auroc_of_each_network=measures.aurocs(alone[attack.label], alone[CLEAN]),
        )
        for attack in config.every_attack
    ]
    evaluation = EvaluationResult(
        heatward_version=heatward.__version__,
        classifier=ClassifierResult(
            source=detector.classifier.spec.source,
            fingerprint=detector.classifier.fingerprint,
            classes=detector.classifier.num_classes,
            accuracy=bootstrap.rate(known.correct, known.source),
        ),
        images={"calibrate": len(calibration), "test": len(clean)},
        copies=dict(copies or {}),
        rates=RATES,
        resamples=resamples,
        detectors={name: title for name, title in DETECTORS.items() if name in scores[CLEAN]},
        thresholds={name: _finite(_reached(together[name], cuts.served)) for name, cuts in thresholds.items()},
        thresholds_on_correct={name: _finite(cuts.on_correct) for name, cuts in thresholds.items()},
        attacks=attacks,
        macro=measures.macro(attacks),
        false_positives={
            name: measures.false_positives({label: scores[label][name] for label in unharmed}, cuts, bootstrap)
            for name, cuts in thresholds.items()
        },
        corruptions=measures.corruption_alarms(
            config.corruptions.labels,
            {label: scores[label][HEATWARD] for label in config.corruptions.labels},
            thresholds[HEATWARD].served,
            bootstrap,
        ),
        traffic={
            name: measures.traffic(scores[CLEAN][name], attacked[name], cuts.served, bootstrap)
            for name, cuts in thresholds.items()
        },
        mead={name: measures.mead(made, attacked[name], cuts.served, bootstrap) for name, cuts in thresholds.items()},
        classes=measures.class_errors(
            clean, attacked[HEATWARD], thresholds[HEATWARD].served[RATES[-1]], detector.classifier.classes
        ),
        reliability=reliance.measure(config, detector, progress),
        predicted=measures.alarms_by_class(clean, together[HEATWARD], groups, detector.classifier.classes, bootstrap),
        cascade=_cascade(detector, {label: scores[label][HEATWARD] for label in (*unharmed, *labels)}, bootstrap),
    )
    evaluation.write(folder)
    write_file(folder / "evaluation.md", markdown(evaluation).encode())
    own = {label: each[HEATWARD] for label, each in scores.items()}
    chosen = {"first": first_sources(config), "worst": worst_sources(config, own)}
    write_examples(folder, {group: examples(config, detector, each, rate=RATES[-1]) for group, each in chosen.items()})
    return evaluation


def _groups(calibrate: Scored, classes: int) -> Groups | None:
    """Calibrated by predicted class at the smallest rate that all images reach; None where they reach none."""
    for rate in RATES:
        with suppress(CalibrationError):
            return Groups.fit(calibrate.score, calibrate.prediction, calibrate.source, classes=classes, rate=rate)
    return None


def _reached(together: Cuts, served: Cuts) -> Cuts:
    """Thresholds of all images, infinite where those that serve, perhaps by predicted class, promise no such rate."""
    return {rate: math.inf if np.isinf(served[rate]).any() else cut for rate, cut in together.items()}


def _finite(cuts: Cuts) -> dict[float, float | None]:
    return {rate: float(cut) if np.isfinite(cut) else None for rate, cut in cuts.items()}


def _cascade(detector: Detector, scored: Mapping[str, Scored], bootstrap: Bootstrap) -> CascadeResult | None:
    """What went on, and what that costs; scores below 0 are those of cleared images."""
    if detector.cascade is None:
        return None
    went_on = {}
    for label, each in scored.items():
        known = each if label == CLEAN else each[each.fair]
        went_on[label] = bootstrap.rate(known.score >= 0, known.source)
    cost = cost_of(detector.extractor, detector.cascade.views)
    return CascadeResult(
        clears=detector.cascade.clears,
        went_on=went_on,
        glance=cost.glance if cost else None,
        in_full=cost.mean(1) if cost else None,
        on_clean=cost.mean(went_on[CLEAN].value) if cost else None,
    )


def _alone(detector: Detector, scored: dict[str, Scored]) -> list[Scored]:
    """Take out what each network of the ensemble says alone: as many seeds of the same fit."""
    return [scored.pop(f"network {number}") for number in range(len(detector.networks))]


def _score(
    config: TrainingConfig,
    split: str,
    label: str,
    detector: Detector,
    progress: Progress,
) -> dict[str, Scored]:
    """What every detector says about one label of a split."""
    evidence = list_shards(config.work, "attribute", split, label)
    attacked = config.attack(label) is not None
    with progress.task(f"evaluate {split}/{label}", len(evidence), unit="shards") as advance:
        device = detector.classifier.device
        answers = {
            HEATWARD: by_network(detector.networks, device, detector.cascade),
            "runner-up": lambda evidence: runner_up(evidence.logits),
        }
        if detector.cascade is not None:
            answers[IN_FULL] = by_network(detector.networks, device)
        if split == "test" and (label == CLEAN or attacked):
            answers |= {f"network {n}": by_network([network], device) for n, network in enumerate(detector.networks)}
        return from_evidence(evidence, answers, advance)

"""The evaluation: a detector and the shards of the test split in; numbers with intervals, tables and a report out.

    attack shards ────▶ success rate, size of the change; image and gradient-map baselines
    attribute shards ─▶ attack scores and recovered labels of the detector and of the runner-up baseline
    clean calibrate ──▶ thresholds, before any test image is looked at

Positives are attacks that changed the prediction, negatives rightly classified clean images. The origin label is the
classifier's prediction before the attack. Written under `work/evaluate/`: evaluation.json and report.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import heatward
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from detector.detector import Detector
from training.config import CLEAN, TrainingConfig
from training.evaluation.baseline_fit import train_baseline
from training.evaluation.baselines import Answers, BaselineSettings, gradient_maps, image_only
from training.evaluation.examples import examples
from training.evaluation.metrics import Bootstrap, flagged, roc_curve, threshold_at
from training.evaluation.report import write_report
from training.evaluation.scores import (
    Attempts,
    Scored,
    by_network,
    by_runner_up,
    from_evidence,
    from_images,
    read_attempts,
)
from training.evaluation.tables import attack_table, false_positive_table, markdown, recovery_table
from training.progress import Progress, SilentProgress
from training.shards import list_shards, write_file, write_json

__all__ = ["DETECTORS", "RATES", "run", "show"]

RATES = (0.01, 0.05)
DETECTORS = {
    "heatward": "heatmap network",
    "runner-up": "runner-up logit",
    "image": "CNN on the image",
    "gradients": "CNN on gradient maps",
}
ROC_POINTS = 100

Scores = dict[str, dict[str, Scored]]  # label → detector → answers


def run(
    config: TrainingConfig,
    detector: Detector,
    *,
    baselines: BaselineSettings | None = None,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a detector on the test split.

    Args:
        config: names the work folder with its shards, and the attacks.
        detector: the detector; its evidence settings are those that made the attribute shards.
        baselines: how to train the CNN baselines; None leaves them out (no fit split is needed then).
        resamples: bootstrap draws.
        progress: told of shards read.

    Returns:
        The evaluation, as written to `work/evaluate/evaluation.json`; `evaluation.md` and `report.html` lie beside it.

    Raises:
        DataError: shards are missing.
    """
    progress = progress or SilentProgress()
    folder = config.work / "evaluate"
    cnns = _baselines(config, detector, baselines, folder, progress) if baselines else {}
    limits = {"gradients": baselines.test_images} if baselines else {}

    calibrate = _score(config, "calibrate", CLEAN, detector, cnns, {}, progress)
    thresholds = {name: _cuts(scored.score) for name, scored in calibrate.items()}
    # The detector's own: a bundle was calibrated on other clean images than this work folder's.
    thresholds["heatward"] = _cuts(_calibration(detector))
    scores: Scores = {
        label: _score(config, "test", label, detector, cnns, limits, progress) for label in config.labels("test")
    }
    attempts = {
        attack.label: read_attempts(list_shards(config.work, "attack", "test", attack.label))
        for attack in config.attacks
    }
    bootstrap = Bootstrap(scores[CLEAN]["heatward"].source, resamples=resamples, seed=config.seed)

    unharmed = (CLEAN, *config.twins.labels)
    clean = scores[CLEAN]["heatward"]
    known = clean[clean.truth >= 0]
    evaluation: dict[str, Any] = {
        "format": "heatward-evaluation",
        "schema_version": 1,
        "heatward_version": heatward.__version__,
        "classifier": {
            "source": detector.classifier.spec.source,
            "fingerprint": detector.classifier.fingerprint,
            "classes": detector.classifier.num_classes,
            "accuracy": bootstrap.rate(known.correct, known.source).as_dict(),
        },
        "images": {"calibrate": len(_calibration(detector)), "test": len(clean)},
        "rates": list(RATES),
        "resamples": resamples,
        "detectors": {name: title for name, title in DETECTORS.items() if name in scores[CLEAN]},
        "thresholds": {
            name: {str(rate): cut if np.isfinite(cut) else None for rate, cut in cuts.items()}
            for name, cuts in thresholds.items()
        },
        "attacks": [
            {
                "label": attack.label,
                "name": attack.name,
                "family": attack.family,
                "seen": attack.train,
                "parameters": dict(attack.parameters),
                **_attempted(attempts[attack.label], bootstrap),
                "detectors": {
                    name: _detected(scored, scores[CLEAN][name], thresholds[name], bootstrap)
                    for name, scored in scores[attack.label].items()
                },
            }
            for attack in config.attacks
        ],
        "false_positives": {
            name: _false_positives({label: scores[label][name] for label in unharmed}, cuts, bootstrap)
            for name, cuts in thresholds.items()
        },
    }
    write_json(folder / "evaluation.json", evaluation)
    write_file(folder / "evaluation.md", markdown(evaluation).encode())
    write_report(folder / "report.html", evaluation, examples(config, detector, rate=RATES[-1]), rate=RATES[-1])
    return evaluation


def _cuts(clean: NDArray[np.float64]) -> dict[float, float]:
    return {rate: threshold_at(clean, rate) for rate in RATES}


def _calibration(detector: Detector) -> NDArray[np.float64]:
    return detector.calibration.scores.double().numpy()


def show(evaluation: Mapping[str, Any], console: Console | None = None) -> None:
    """Print an evaluation, as `run` returned it or as read from evaluation.json."""
    console = console or Console()
    for table in (attack_table(evaluation), recovery_table(evaluation), false_positive_table(evaluation)):
        console.print(table)


def _baselines(
    config: TrainingConfig, detector: Detector, settings: BaselineSettings, folder: Path, progress: Progress
) -> dict[str, Callable[[Tensor], Answers]]:
    """Train the CNNs on the images and labels that the detector learned from."""
    labels = config.labels("fit")
    shards = {label: list_shards(config.work, "attack", "fit", label) for label in labels}
    families = {label: config.families.index(config.family_of(label)) for label in labels}
    size = sum(parameter.numel() for parameter in detector.networks[0].parameters())
    trained: dict[str, Callable[[Tensor], Answers]] = {}
    for name in settings.names:
        gradients = name == "gradients"
        sight = (
            gradient_maps(detector.classifier, settings.candidates) if gradients else image_only(detector.classifier)
        )
        trained[name] = train_baseline(
            sight, shards, families, settings,
            parameters=size, folder=folder, device=detector.classifier.device, seed=config.seed, progress=progress,
        ).answer  # fmt: skip
    return trained


def _score(
    config: TrainingConfig,
    split: str,
    label: str,
    detector: Detector,
    cnns: Mapping[str, Callable[[Tensor], Answers]],
    limits: Mapping[str, int],
    progress: Progress,
) -> dict[str, Scored]:
    """What every detector says about one label of a split."""
    evidence = list_shards(config.work, "attribute", split, label)
    images = list_shards(config.work, "attack", split, label) if cnns else []
    attacked = label != CLEAN and label not in config.twins.labels
    with progress.task(f"evaluate {split}/{label}", len(evidence) + len(images) * len(cnns), unit="shards") as advance:
        network = by_network(detector.networks, detector.classifier.device)
        scored = from_evidence(evidence, {"heatward": network, "runner-up": by_runner_up}, advance)
        for name, answer in cnns.items():
            scored[name] = from_images(images, answer, successes_only=attacked, limit=limits.get(name), advance=advance)
    return scored


def _attempted(attempts: Attempts, bootstrap: Bootstrap) -> dict[str, Any]:
    """How often the attack works, and how far its successes are from the clean image."""
    won = attempts.success
    return {
        "attempts": len(won),
        "success_rate": bootstrap.rate(won, attempts.source).as_dict(),
        "linf": bootstrap.mean(attempts.linf[won], attempts.source[won]).as_dict(),
        "l2": bootstrap.mean(attempts.l2[won], attempts.source[won]).as_dict(),
    }


def _detected(attacked: Scored, clean: Scored, cuts: Mapping[float, float], bootstrap: Bootstrap) -> dict[str, Any]:
    """One detector against one attack."""
    negative = clean[clean.correct]
    alarms = {rate: flagged(attacked.score, cut) for rate, cut in cuts.items()}
    fpr, tpr = roc_curve(attacked.score, negative.score, ROC_POINTS)
    everything = np.ones(len(attacked), dtype=np.bool_)
    return {
        "auroc": bootstrap.auroc(attacked.score, attacked.source, negative.score, negative.source).as_dict(),
        "tpr": {str(rate): bootstrap.rate(hits, attacked.source).as_dict() for rate, hits in alarms.items()},
        "recovery": {
            "all": _recovered(attacked, everything, bootstrap),
            **{f"flagged at {rate}": _recovered(attacked, hits, bootstrap) for rate, hits in alarms.items()},
        },
        "roc": {"fpr": np.round(fpr, 5).tolist(), "tpr": np.round(tpr, 5).tolist()},
    }


def _recovered(attacked: Scored, rows: NDArray[np.bool_], bootstrap: Bootstrap) -> dict[str, Any]:
    chosen = attacked[rows]
    hit = chosen.recovered == chosen.origin[:, None]
    return {
        "top1": bootstrap.rate(hit[:, 0], chosen.source).as_dict(),
        "top2": bootstrap.rate(hit.any(axis=1), chosen.source).as_dict(),
    }


def _false_positives(
    clean: Mapping[str, Scored], cuts: Mapping[float, float], bootstrap: Bootstrap
) -> dict[str, dict[str, dict[str, Any]]]:
    """Alarms on images that were not attacked: clean ones, rightly and wrongly classified, and noise twins."""
    groups = dict(clean)
    groups["clean, correct"] = clean[CLEAN][clean[CLEAN].correct]
    groups["clean, misclassified"] = clean[CLEAN][~clean[CLEAN].correct]
    return {
        name: {str(rate): bootstrap.rate(flagged(g.score, cut), g.source).as_dict() for rate, cut in cuts.items()}
        for name, g in groups.items()
    }

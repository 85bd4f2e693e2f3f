"""The stages of a training job, in order: attack → attribute → fit → calibrate → evaluate → bundle.

Each stage reads what the one before wrote under the work folder, makes only what is missing or stale, and leaves either
a whole file or none; so a job can be killed at any point and run again. The same configuration and seed give the same
bundle, byte for byte: nothing in it knows the time or the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import heatward
import torch
from torch import Tensor

from detector.bundle import Bundle, Manifest, load_bundle, save_bundle
from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.weights import halve_where_lossless
from detector.detector import Detector
from detector.errors import ConfigError, DataError, FingerprintMismatchError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.scoring.calibration import Calibration
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, ensemble_weights
from training.checks import check_attacks, check_classifier, check_images
from training.config import SPLITS, STAGES, Stage, TrainingConfig
from training.evaluation import SCHEMA_VERSION
from training.job import Job, open_job
from training.progress import Progress, SilentProgress
from training.shards import digest
from training.stages import attack, attribute, calibrate, fit
from training.stamps import finished, once

__all__ = ["evaluate_detector", "load_detector", "open_detector", "run", "run_stage"]

RESULTS = {"fit": fit.FILES, "evaluate": ("evaluation.json", "report.html")}


def run(config: TrainingConfig, progress: Progress) -> Path:
    """Run every stage; returns the bundle's path.

    Raises:
        HeatwardError: Something the message explains.
    """
    job = open_job(config, progress)
    for stage in STAGES:
        run_stage(job, stage)
    return config.out


def run_stage(job: Job, stage: Stage) -> None:
    """Run one stage, whose predecessors have run with the same configuration.

    Raises:
        HeatwardError: Something the message explains.
    """
    steps: dict[Stage, Callable[[Job], None]] = {
        "attack": _attack,
        "attribute": attribute.run,
        "fit": _fit,
        "calibrate": _calibrate,
        "evaluate": _evaluate,
        "bundle": _bundle,
    }
    steps[stage](job)


def load_detector(job: Job) -> Detector:
    """The detector that the fit and calibrate stages made.

    Raises:
        DataError: One of them has not run.
    """
    return Detector(
        job.classifier,
        EvidenceExtractor(job.classifier, job.config.evidence, job.witness),
        [network.to(job.classifier.device) for network in fit.load_networks(job.work)],
        Calibration.fit(calibrate.load_scores(job.work)),
    )


def open_detector(job: Job, path: Path) -> Detector:
    """The detector of a bundle, to evaluate it on this job's shards.

    Raises:
        BundleError: The bundle cannot be used.
        FingerprintMismatchError: It guards another classifier than the shards were made with.
        ConfigError: It looks at other evidence than the shards hold.
    """
    bundle = load_bundle(path)
    if bundle.manifest.fingerprint != job.classifier.fingerprint:
        raise FingerprintMismatchError(
            f"{path} guards classifier {bundle.manifest.fingerprint[:12]}…, the configuration names "
            f"{job.classifier.fingerprint[:12]}…: evaluate it with the configuration it was trained with"
        )
    if EvidenceSettings.model_validate(bundle.manifest.evidence) != job.config.evidence:
        raise ConfigError(
            f"{path} was made with other [evidence] settings than the configuration's: use those it was trained with"
        )
    if bundle.manifest.witness_fingerprint != (job.witness.fingerprint if job.witness else ""):
        raise ConfigError(
            f"{path} was made with another [witness] than the configuration's: use the one it was trained with"
        )
    networks = HeatmapNetwork.ensemble(
        EvidenceShape.model_validate(bundle.manifest.network["shape"]),
        len(bundle.manifest.families),
        NetworkSettings.model_validate(bundle.manifest.network["settings"]),
        bundle.network_weights,
    )
    return Detector(
        job.classifier,
        EvidenceExtractor(job.classifier, job.config.evidence, job.witness),
        [network.to(job.classifier.device) for network in networks],
        Calibration.fit(bundle.calibration_scores),
        bundle.manifest,
    )


def evaluate_detector(job: Job, detector: Detector) -> None:
    """Evaluate a detector from elsewhere on this job's attack and attribution shards, which must be finished."""
    from training.evaluation import evaluate

    job.require("attribute")
    # what `evaluate` writes no longer belongs to the job's own detector
    (job.work / "evaluate" / "settings.json").unlink(missing_ok=True)
    settings = job.config.evaluate
    baselines = settings.baselines if settings.baselines.names else None
    evaluate.run(
        job.config,
        detector,
        baselines=baselines,
        resamples=settings.resamples,
        copies=job.copies,
        progress=job.progress,
    )


def _attack(job: Job) -> None:
    EvidenceExtractor(job.classifier, job.config.evidence, job.witness)  # what cannot be looked at is said now
    check_images(job)
    attack.run(job)


def _fit(job: Job) -> None:
    made_from = fit.fit_digest(job)
    if not _finished(job, "fit", made_from):
        job.require("attribute")
        _once(job, "fit", made_from, lambda: fit.run(job.config, job.work, job.progress))


def _calibrate(job: Job) -> None:
    _require(job, "fit", fit.fit_digest(job))
    job.require("attribute")
    calibrate.run(job, fit.fit_digest(job))


def _evaluate(job: Job) -> None:
    from training.evaluation import evaluate  # matplotlib: only this stage needs it

    _calibrate(job)  # nothing to do when it is done; thresholds must belong to these networks
    settings = job.config.evaluate
    baselines = settings.baselines if settings.baselines.names else None
    made_from = _evaluate_digest(job)
    if not _finished(job, "evaluate", made_from):
        job.require("attack")
        detector = load_detector(job)
        _once(
            job,
            "evaluate",
            made_from,
            lambda: evaluate.run(
                job.config,
                detector,
                baselines=baselines,
                resamples=settings.resamples,
                copies=job.copies,
                progress=job.progress,
            ),
        )


def _bundle(job: Job) -> None:
    job.require("attack")
    quiet = replace(job, progress=SilentProgress())  # `attack` has said it
    check_classifier(quiet)
    check_attacks(quiet)
    _calibrate(job)
    measured = {}
    if _finished(job, "evaluate", _evaluate_digest(job)):
        measured = _measured(json.loads((job.work / "evaluate" / "evaluation.json").read_text(encoding="utf-8")))
    else:
        job.progress.note("bundle: not evaluated with these settings, so the bundle carries no measured results")
    save_bundle(job.config.out, _assemble(job, measured))
    job.progress.note(f"bundle: {job.config.out}")


def _assemble(job: Job, measured: dict[str, Any]) -> Bundle:
    config, classifier, witness = job.config, job.classifier, job.witness
    described = json.loads((job.work / "fit" / "network.json").read_text(encoding="utf-8"))
    networks = fit.load_networks(job.work)
    scores = calibrate.load_scores(job.work)
    manifest = Manifest(
        heatward_version=heatward.__version__,
        files={},
        classifier=_stored_spec(classifier),
        fingerprint=classifier.fingerprint,
        witness=_stored_spec(witness) if witness else None,
        witness_fingerprint=witness.fingerprint if witness else "",
        evidence=config.evidence.model_dump(mode="json"),
        network={"settings": described["settings"], "shape": described["shape"]},
        families=tuple(described["families"]),
        operating_points={str(rate): cut for rate, cut in Calibration.fit(scores).operating_points().items()},
        measured=measured,
        provenance={
            "seed": config.seed,
            "torch": torch.__version__,
            "images": {split: len(images) for split, images in job.splits.items()},
            "copies": job.copies,
            "images_sha256": digest([job.splits[split].digest(0, len(job.splits[split])) for split in SPLITS]),
            "attacks": [each.model_dump(mode="json") for each in config.attacks],
            "twins": [round(size, 8) for size in config.twins.sizes],
            "fit": config.fit.model_dump(mode="json"),
        },
    )
    return Bundle(
        manifest=manifest,
        classifier_weights=_stored_weights(classifier),
        witness_weights=_stored_weights(witness) if witness else None,
        network_weights=ensemble_weights(networks),
        calibration_scores=scores,
    )


def _stored_spec(classifier: Classifier) -> ClassifierSpec:
    """A bundle that carries the weights does not name the file they came from."""
    return classifier.spec.model_copy(update={"weights": None}) if classifier.embeddable else classifier.spec


def _stored_weights(classifier: Classifier) -> dict[str, Tensor] | None:
    return halve_where_lossless(classifier.state_dict()) if classifier.embeddable else None


def _measured(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What a bundle says about itself: the detector's own results, without curves and baselines."""
    attacks = [
        {key: value for key, value in each.items() if key != "detectors"}
        | {key: value for key, value in each["detectors"]["heatward"].items() if key != "roc"}
        for each in evaluation["attacks"]
    ]
    return {
        "accuracy": evaluation["classifier"]["accuracy"],
        "images": evaluation["images"],
        "attacks": attacks,
        "false_positives": evaluation["false_positives"]["heatward"],
    }


def _evaluate_digest(job: Job) -> str:
    shards = [job.digests("attribute", split) for split in SPLITS]
    settings = job.config.evaluate.model_dump(mode="json", exclude={"leave_out"})  # measured by its own command
    return digest([fit.fit_digest(job), shards, settings, SCHEMA_VERSION])


def _finished(job: Job, stage: str, made_from: str) -> bool:
    return finished(job.work / stage, made_from, RESULTS[stage])


def _once(job: Job, stage: str, made_from: str, work: Callable[[], object]) -> None:
    once(job.work / stage, made_from, work, job.progress, stage)


def _require(job: Job, stage: str, made_from: str) -> None:
    if not _finished(job, stage, made_from):
        raise DataError(
            f"stage {stage!r} is not finished with these settings: run `heatward train {stage}` with the same "
            "configuration"
        )

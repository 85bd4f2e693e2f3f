"""The bundle stage: fitted networks, clean scores, classifiers and what was measured in, one bundle out.

The same configuration and seed give the same bytes: nothing in a bundle knows the time or the place.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import heatward
import torch
from torch import Tensor

from detector.bundle import Bundle, Manifest, save_bundle
from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.weights import halve_where_lossless
from detector.evidence import hidden_by
from detector.keys import SHOWN
from detector.remote import shown
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import Cascade, CascadeSettings
from detector.scoring.groups import Groups
from detector.scoring.network import ensemble_weights
from training.checks import check_attacks, check_classifier
from training.config import SPLITS, Stage
from training.detectors import load_calibration, load_patches, load_reliability
from training.evaluation.result import EvaluationResult, results
from training.fitting.calibration import describe
from training.fitting.glance import GLANCE_FOLDER, load_cascade
from training.fitting.networks import load_networks
from training.job import Job
from training.progress import SilentProgress
from training.shards import digest
from training.signing import signing_key

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ("attack", "calibrate")


def outputs(job: Job) -> None:
    """Nothing that another stage reads: a bundle takes no time, so it is made each time."""


def run(job: Job) -> None:
    """Write the bundle.

    Raises:
        DataError: The classifier is hardly better than chance, or no attack changed a prediction.
    """
    quiet = replace(job, progress=SilentProgress())  # the attack stage has said it
    check_classifier(quiet)
    check_attacks(quiet)
    evaluation = results(job)
    measured = {}
    if evaluation.finished:
        measured = EvaluationResult.read(evaluation.folder).measured()
    else:
        job.progress.note("bundle: not evaluated with these settings, so the bundle carries no measured results")
    key = signing_key(job.config.sign_key, quiet=True)
    save_bundle(job.config.out, _assemble(job, measured), key=key)
    job.progress.note(f"bundle: {shown(job.config.out)}" + (f", signed by {key.name[:SHOWN]}" if key else ""))


def _assemble(job: Job, measured: dict[str, Any]) -> Bundle:
    config, classifier, witness = job.config, job.classifier, job.witness
    folder = job.work / "fit"
    described = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    networks = load_networks(folder)
    cascade = load_cascade(job)
    scores, stored = load_calibration(job.work)
    reliability = load_reliability(job.work)
    calibration = Calibration.fit(scores)
    groups = Groups.from_tensors(stored, classifier.num_classes) if stored else None
    points = {} if groups else calibration.operating_points()
    manifest = Manifest(
        heatward_version=heatward.__version__,
        files={},
        classifier=_stored_spec(classifier),
        fingerprint=classifier.fingerprint,
        witness=_stored_spec(witness) if witness else None,
        witness_fingerprint=witness.fingerprint if witness else "",
        evidence=config.evidence.model_dump(mode="json"),
        network={"settings": described["settings"], "shape": described["shape"]},
        cascade=_described(cascade, config.cascade.views, job.work / GLANCE_FOLDER) if cascade is not None else None,
        patches=config.patches.model_dump(mode="json") if config.patches else None,
        families=tuple(described["families"]),
        operating_points={str(rate): cut for rate, cut in points.items()},
        calibration=describe(calibration, groups, config.calibrate, classifier.classes)[0],
        measured=measured,
        provenance={
            "seed": config.seed,
            "torch": torch.__version__,
            "images": {split: len(images) for split, images in job.splits.items()},
            "copies": job.copies,
            "images_sha256": digest([job.splits[split].digest(0, len(job.splits[split])) for split in SPLITS]),
            "attacks": [each.model_dump(mode="json") for each in config.attacks],
            "deliveries": [each.model_dump(mode="json", exclude_unset=True) for each in config.deliveries],
            "twins": [round(size, 8) for size in config.twins.sizes],
            "fit": config.fit.model_dump(mode="json"),
            **_seen_from_outside(job),
        },
    )
    return Bundle(
        manifest=manifest,
        classifier_weights=_stored_weights(classifier),
        witness_weights=_stored_weights(witness) if witness else None,
        network_weights=ensemble_weights(networks),
        calibration_scores=scores,
        reliability=None if reliability is None else reliability.tensors(),
        calibration_groups=stored,
        glance_weights=ensemble_weights(cascade.networks) if cascade is not None else None,
        patches=load_patches(job),
    )


def _described(cascade: Cascade, views: tuple[str, ...], folder: Path) -> dict[str, Any]:
    network = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    settings = CascadeSettings(
        clears=cascade.clears,
        threshold=cascade.threshold,
        shape=network["shape"],
        settings=network["settings"],
        views=views,
    )
    return settings.model_dump(mode="json")


def _seen_from_outside(job: Job) -> dict[str, Any]:
    """Of a classifier that cannot be opened: what it hides, and where its witness is from."""
    hidden = hidden_by(job.classifier)
    if not hidden:
        return {}
    made = job.config.distillation.model_dump(mode="json") if job.distils else "given"
    return {"black_box": hidden, "witness": made}


def _stored_spec(classifier: Classifier) -> ClassifierSpec:
    """A bundle that carries the weights does not name the file they came from."""
    return classifier.spec.model_copy(update={"weights": None}) if classifier.embeddable else classifier.spec


def _stored_weights(classifier: Classifier) -> dict[str, Tensor] | None:
    return halve_where_lossless(classifier.state_dict()) if classifier.embeddable else None

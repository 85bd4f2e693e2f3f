"""Detectors of a job: what the fit and calibrate stages left, or a bundle, in; a `Detector` of the job out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.bundle import Bundle, load_bundle, save_bundle
from detector.bundle.contents import cascade_of, patches_of, stored_calibration
from detector.classifier import load_classifier
from detector.detector import Detector
from detector.errors import ConfigError, FingerprintMismatchError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from detector.evidence.covering import Covering
from detector.keys import SigningKey
from detector.remote import shown
from detector.scoring.calibration import Calibration
from detector.scoring.groups import Groups
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings
from detector.scoring.patches import Patches
from detector.scoring.reliability import Reliability
from training.fitting.glance import load_cascade
from training.fitting.networks import load_networks
from training.job import Job
from training.shards import read_shard
from training.signing import public_keys

__all__ = [
    "PATCHES",
    "RELIABILITY",
    "SCORES",
    "detector_around",
    "load_calibration",
    "load_detector",
    "load_patches",
    "load_reliability",
    "open_detector",
    "write_measured",
]

SCORES = Path("calibrate/scores.safetensors")
RELIABILITY = SCORES.with_name("reliability.safetensors")
PATCHES = SCORES.with_name("patches.safetensors")


def load_calibration(work: Path) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Of the calibrate stage: clean attack scores (n,) float64, and `Groups.tensors` where it calibrates by group.

    Raises:
        DataError: The stage has not run.
    """
    tensors = read_shard(work / SCORES)
    return tensors.pop("scores"), tensors or None


def load_reliability(work: Path) -> Reliability | None:
    """What the calibrate stage found may be promised of predictions; None where that is nothing.

    Raises:
        DataError: The stage has not run.
    """
    tensors = read_shard(work / RELIABILITY)
    return Reliability.from_tensors(tensors) if tensors else None


def load_patches(job: Job) -> dict[str, Tensor] | None:
    """What clean images score under the masks of `[patches]`, as a bundle holds it; None where there are none.

    Raises:
        DataError: The calibrate stage has not run.
    """
    return None if job.config.patches is None else read_shard(job.work / PATCHES)


def load_detector(job: Job) -> Detector:
    """The detector that the fit and calibrate stages made.

    Raises:
        DataError: One of them has not run.
    """
    device, cascade = job.classifier.device, load_cascade(job)
    scores, stored = load_calibration(job.work)
    masks, clean = job.config.patches, load_patches(job)
    return Detector(
        job.classifier,
        EvidenceExtractor(job.classifier, job.config.evidence, job.witness),
        [network.to(device) for network in load_networks(job.work / "fit")],
        Calibration.fit(scores),
        reliability=load_reliability(job.work),
        groups=Groups.from_tensors(stored, job.classifier.num_classes) if stored else None,
        tail=job.config.calibrate.tail,
        cascade=cascade.to(device) if cascade is not None else None,
        patches=Patches(Covering.of(job.classifier.input_size, masks), Calibration.fit(clean["scores"]))
        if masks and clean
        else None,
    )


def open_detector(job: Job, path: Path, key: SigningKey | None = None) -> tuple[Job, Detector, Bundle]:
    """A bundle, its detector, and the job to evaluate it in: with the bundle's witness, where it would make its own.

    Args:
        job: Names classifier and evidence.
        path: Of the bundle; also a URL.
        key: Must have signed it; None: nobody need have.

    Raises:
        BundleError: The bundle cannot be used, or none of `keys` signed it.
        FingerprintMismatchError: It guards another classifier than the shards were made with.
        ConfigError: It looks at other evidence than the shards hold.
    """
    bundle, place = load_bundle(path, public_keys(key)), shown(path)
    if bundle.manifest.fingerprint != job.classifier.fingerprint:
        raise FingerprintMismatchError(
            f"{place} guards classifier {bundle.manifest.fingerprint[:12]}…, the configuration names "
            f"{job.classifier.fingerprint[:12]}…: evaluate it with the configuration it was trained with"
        )
    job.classifier.ask_again(bundle.classifier_weights)
    if EvidenceSettings.model_validate(bundle.manifest.evidence) != job.config.evidence:
        raise ConfigError(
            f"{place} was made with other [evidence] settings than the configuration's: use those it was trained with"
        )
    if job.distils and bundle.manifest.witness is not None:  # whoever trained it on other images trained another one
        device, weights = job.classifier.device, bundle.witness_weights
        witness = load_classifier(bundle.manifest.witness, device=device, state_dict=weights, allow=())
        job = replace(job, given_witness=witness)
    if bundle.manifest.witness_fingerprint != (job.witness.fingerprint if job.witness else ""):
        raise ConfigError(
            f"{place} was made with another [witness] than the configuration's: use the one it was trained with"
        )
    return job, detector_around(bundle, EvidenceExtractor(job.classifier, job.config.evidence, job.witness)), bundle


def detector_around(bundle: Bundle, extractor: EvidenceExtractor) -> Detector:
    """The networks and thresholds of a bundle on the evidence of a classifier that is at hand."""
    networks = HeatmapNetwork.ensemble(
        EvidenceShape.model_validate(bundle.manifest.network["shape"]),
        len(bundle.manifest.families),
        NetworkSettings.model_validate(bundle.manifest.network["settings"]),
        bundle.network_weights,
    )
    classifier, cascade = extractor.classifier, cascade_of(bundle)
    return Detector(
        classifier,
        extractor,
        [network.to(classifier.device) for network in networks],
        Calibration.fit(bundle.calibration_scores),
        bundle.manifest,
        None if bundle.reliability is None else Reliability.from_tensors(bundle.reliability),
        *stored_calibration(bundle, classifier.num_classes),
        cascade.to(classifier.device) if cascade is not None else None,
        patches_of(bundle),
    )


def write_measured(bundle: Bundle, out: Path, measured: dict[str, Any], key: SigningKey | None) -> None:
    """Write a bundle with what was measured of it."""
    save_bundle(out, replace(bundle, manifest=bundle.manifest.model_copy(update={"measured": measured})), key=key)

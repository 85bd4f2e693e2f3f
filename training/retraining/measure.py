"""Champion and challenger on the same images: attacked test images of a job in, what each scores out.

    work/attack/test/<label>/ ─▶ each detector's own evidence ─▶ scores, kept in work/compare/<detector>/<label>/
    recent traffic ───────────┘

Scores are kept by what decides them, so that a killed comparison goes on, and tomorrow's champion, who is today's
challenger, is not asked again about the same images. Thresholds are applied later: they may be calibrated anew.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.bundle import Bundle, Manifest
from detector.classifier import load_classifier
from detector.detector import Detector
from detector.errors import FingerprintMismatchError
from detector.evidence import EvidenceExtractor, EvidenceSettings
from training.detectors import detector_around
from training.job import Job
from training.shards import digest, digest_of, read_shard, write_shard

__all__ = ["Contestant", "content_of", "forget_others", "open_contestant", "scores_of", "scores_of_traffic"]

FOLDER = "compare"


@dataclass(frozen=True)
class Contestant:
    """A detector that is compared."""

    name: str
    manifest: Manifest
    detector: Detector

    @property
    def content(self) -> str:
        """What decides its scores, digested."""
        return content_of(self.manifest)

    def flags(self, scores: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
        """Which images (n,) it flags at a false-positive rate."""
        found: NDArray[np.bool_] = (self.detector.calibration.p_value(torch.from_numpy(scores)) <= rate).numpy()
        return found


def content_of(manifest: Manifest) -> str:
    """What decides a bundle's scores, digested: not its thresholds, nor where it comes from."""
    files = {
        name: each for name, each in manifest.files.items() if name in ("network.safetensors", "glance.safetensors")
    }
    parts = manifest.model_dump(mode="json", include={"fingerprint", "witness_fingerprint", "evidence", "constants"})
    cascade = [] if manifest.cascade is None else [manifest.cascade]
    return digest([files, parts, manifest.network, *cascade])


def open_contestant(job: Job, name: str, bundle: Bundle) -> Contestant:
    """A bundle's detector, with evidence of its own, around the job's classifier.

    Raises:
        FingerprintMismatchError: It guards another classifier.
    """
    manifest = bundle.manifest
    if manifest.fingerprint != job.classifier.fingerprint:
        raise FingerprintMismatchError(
            f"the {name} guards classifier {manifest.fingerprint[:12]}…, the configuration names "
            f"{job.classifier.fingerprint[:12]}…: images that attack one say nothing about the other. Begin another "
            "store for another classifier"
        )
    job.classifier.ask_again(bundle.classifier_weights)
    witness = None
    if manifest.witness is not None:
        if job.witness is not None and job.witness.fingerprint == manifest.witness_fingerprint:
            witness = job.witness
        else:
            named = [each for each in (job.config.classifier, job.config.witness) if each is not None]
            trusted = {each.name.partition(":")[0] for each in named}
            witness = load_classifier(
                manifest.witness, device=job.classifier.device, state_dict=bundle.witness_weights, allow=trusted
            )
    evidence = EvidenceSettings.model_validate(manifest.evidence)
    detector = detector_around(bundle, EvidenceExtractor(job.classifier, evidence, witness))
    return Contestant(name, manifest, detector)


def scores_of(job: Job, contestant: Contestant, label: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Source and score of the test images of a label; of an attack, of those that changed the prediction.

    Raises:
        DataError: The attack stage has not run.
    """
    attacked = job.config.attack(label) is not None
    plans = job.plan("attack", "test", label)
    parts = []
    with job.progress.task(f"compare {contestant.name}/{label}", sum(plan.rows for plan in plans)) as advance:
        for plan in plans:
            path = _place(job, contestant) / label / plan.path.name
            made_from = digest({"detector": contestant.content, "images": plan.digest})
            if digest_of(path) != made_from:
                shard = read_shard(plan.path)
                if attacked:
                    success = shard["prediction"] != shard["origin"]
                    shard = {name: column[success] for name, column in shard.items()}
                scores = _scores(contestant.detector, shard["images"], job.config.batch_size)
                write_shard(path, {"index": shard["index"], "scores": scores}, made_from)
            parts.append(read_shard(path))
            advance(plan.rows)
    return (
        torch.cat([part["index"] for part in parts]).numpy().astype(np.int64),
        torch.cat([part["scores"] for part in parts]).numpy(),
    )


def scores_of_traffic(job: Job, contestant: Contestant, label: str, images: Tensor) -> NDArray[np.float64]:
    """Scores of images (n, 3, H, W) uint8 that were recorded."""
    path = _place(job, contestant) / label / "00000.safetensors"
    shown = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    made_from = digest({"detector": contestant.content, "images": shown})
    if digest_of(path) != made_from:
        write_shard(path, {"scores": _scores(contestant.detector, images, job.config.batch_size)}, made_from)
    return read_shard(path)["scores"].numpy()


def forget_others(job: Job, contestants: Iterable[Contestant]) -> None:
    """Remove the scores of detectors that are compared no more."""
    kept = {_place(job, each).name for each in contestants}
    folder = job.work / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _place(job: Job, contestant: Contestant) -> Path:
    return job.work / FOLDER / contestant.content[:16]


def _scores(detector: Detector, images: Tensor, batch_size: int) -> Tensor:
    """(n,) float64, as a server computes them."""
    said = [
        verdict.attack_score
        for batch in (torch.split(images, batch_size) if len(images) else ())
        for verdict in detector.detect(batch.float() / 255)
    ]
    return torch.tensor(said, dtype=torch.float64)

"""Champion and challenger on the same images: attacked test images of a job in, what each scores out.

    work/attack/test/<label>/ ─▶ each detector's own evidence ─▶ scores, kept in work/compare/<detector>/<label>/
    recent traffic ───────────┘

Scores are kept by what decides them, so that a killed comparison goes on, and tomorrow's champion, who is today's
challenger, is not asked again about the same images. Thresholds are applied later: they may be calibrated anew.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
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

__all__ = ["Contestant", "Scores", "content_of", "forget_others", "open_contestant", "scores_of", "scores_of_traffic"]

FOLDER = "compare"
KEPT = ("scores", "predictions")
"""Of each image."""


@dataclass(frozen=True)
class Scores:
    """What a detector makes of n images; thresholds come later."""

    score: NDArray[np.float64]
    prediction: NDArray[np.int64]
    """Classes that were predicted: a calibration by group asks for them."""

    @classmethod
    def of(cls, shards: Sequence[Mapping[str, Tensor]]) -> Scores:
        """What `_scores` wrote."""
        return cls(*(torch.cat([shard[name] for shard in shards]).numpy() for name in KEPT))


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

    def flags(self, scored: Scores, rate: float) -> NDArray[np.bool_]:
        """Which images (n,) it flags at a false-positive rate."""
        p_values = self.detector.p_value(torch.from_numpy(scored.score), torch.from_numpy(scored.prediction))
        found: NDArray[np.bool_] = (p_values <= rate).numpy()
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


def scores_of(job: Job, contestant: Contestant, label: str) -> tuple[NDArray[np.int64], Scores]:
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
            made_from = digest({"detector": contestant.content, "images": plan.digest, "kept": KEPT})
            if digest_of(path) != made_from:
                shard = read_shard(plan.path)
                if attacked:
                    success = shard["prediction"] != shard["origin"]
                    shard = {name: column[success] for name, column in shard.items()}
                said = _scores(contestant.detector, shard["images"], job.config.batch_size)
                write_shard(path, {"index": shard["index"], **said}, made_from)
            parts.append(read_shard(path))
            advance(plan.rows)
    return torch.cat([part["index"] for part in parts]).numpy().astype(np.int64), Scores.of(parts)


def scores_of_traffic(job: Job, contestant: Contestant, label: str, images: Tensor) -> Scores:
    """Scores of images (n, 3, H, W) uint8 that were recorded."""
    path = _place(job, contestant) / label / "00000.safetensors"
    shown = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    made_from = digest({"detector": contestant.content, "images": shown, "kept": KEPT})
    if digest_of(path) != made_from:
        write_shard(path, _scores(contestant.detector, images, job.config.batch_size), made_from)
    return Scores.of([read_shard(path)])


def forget_others(job: Job, contestants: Iterable[Contestant]) -> None:
    """Remove the scores of detectors that are compared no more."""
    kept = {_place(job, each).name for each in contestants}
    folder = job.work / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _place(job: Job, contestant: Contestant) -> Path:
    return job.work / FOLDER / contestant.content[:16]


def _scores(detector: Detector, images: Tensor, batch_size: int) -> dict[str, Tensor]:
    """(n,) scores float64 and predictions int64, as a server computes them."""
    said = [
        verdict
        for batch in (torch.split(images, batch_size) if len(images) else ())
        for verdict in detector.detect(batch.float() / 255)
    ]
    return {
        "scores": torch.tensor([verdict.attack_score for verdict in said], dtype=torch.float64),
        "predictions": torch.tensor([verdict.label for verdict in said], dtype=torch.int64),
    }

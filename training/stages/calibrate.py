"""The calibrate stage: clean images of the calibrate split in, `calibrate/scores.safetensors` (attack scores) out.

All clean images count, rightly and wrongly classified alike: a server cannot know which is which. The scores become
conformal p-values (`detector.scoring.calibration`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.calibration import Calibration
from detector.scoring.network import score
from training.config import CLEAN
from training.job import Job
from training.shards import digest, digest_of, list_shards, read_shard, write_shard
from training.stages.fit import load_networks

__all__ = ["load_scores", "run", "scores_path"]


def scores_path(work: Path) -> Path:
    """Where the scores lie."""
    return work / "calibrate" / "scores.safetensors"


def run(job: Job, fit_digest: str) -> None:
    """Score the calibrate split unless that is done.

    Args:
        job: The job.
        fit_digest: Of the networks that score.

    Raises:
        CalibrationError: Too few images, or a score is not finite.
        DataError: An earlier stage is not finished.
    """
    path = scores_path(job.work)
    made_from = digest({"fit": fit_digest, "shards": job.digests("attribute", "calibrate")})
    if digest_of(path) == made_from:
        return
    networks = [network.to(job.classifier.device) for network in load_networks(job.work)]
    shards = list_shards(job.work, "attribute", "calibrate", CLEAN)
    columns: dict[str, list[Tensor]] = {"scores": [], "index": [], "truth": [], "prediction": []}
    with job.progress.task("calibrate", total=len(job.splits["calibrate"])) as advance:
        for shard in shards:
            tensors = read_shard(shard)
            evidence = Evidence.from_tensors(tensors).float()
            if len(evidence):
                scores, _ = score(networks, evidence.to(job.classifier.device))
                columns["scores"].append(scores.double().cpu())
                for name in ("index", "truth", "prediction"):
                    columns[name].append(tensors[name])
            advance(len(evidence))
    result = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in columns.items()}
    Calibration.fit(result["scores"])  # raises if these scores cannot calibrate
    write_shard(path, result, made_from)


def load_scores(work: Path) -> Tensor:
    """The clean attack scores (n,) float64.

    Raises:
        DataError: The stage has not run.
    """
    return read_shard(scores_path(work))["scores"]

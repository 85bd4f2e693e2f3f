"""What may be promised of predictions: attribution shards of `fit` and signs of `calibrate` in, `Reliability` out.

    fit        clean images, noise twins and attacked images, weighed as for the networks ─▶ RiskHead
               clean images ─▶ levels of risk
    calibrate  clean images, each photograph in one of the ways in which it arrives ─▶ error rates of these levels

Wrong is a prediction that is not the class of the photograph, whatever made it so. Photographs of no known class teach
nothing; where too few are known, nothing is promised. With a cascade the signs are of the look that judged, and the
views are not among them: a cleared image has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.errors import CalibrationError
from detector.evidence import Evidence
from detector.scoring.cascade import Cascade, score_of_both
from detector.scoring.network import HeatmapNetwork
from detector.scoring.reliability import Reliability, levels_of
from detector.scoring.risk import RiskHead, signs
from training.config import CLEAN
from training.fitting.rows import ShardReader
from training.job import Job
from training.shards import derived_seed, read_shard

__all__ = ["Signed", "fit_reliability", "in_one_way", "signs_of"]


@dataclass(frozen=True)
class Signed:
    """Signs of n images whose class is known."""

    signs: Tensor  # (n, F) float64
    wrong: Tensor  # (n,) whether the prediction was
    source: Tensor  # (n,) the photograph

    @classmethod
    def cat(cls, parts: Sequence[Signed]) -> Signed:
        """Several as one."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("signs", "wrong", "source")))

    @classmethod
    def of(
        cls, shard: dict[str, Tensor], evidence: Evidence, attack_score: Tensor, origin: Tensor, *, views: bool = True
    ) -> Signed:
        """Of one attribution shard and what the networks said of it; `views` as of `signs`."""
        known = shard["truth"] >= 0
        wrong = shard["prediction"] != shard["truth"]
        return cls(signs(evidence, attack_score, origin, views=views)[known], wrong[known], shard["index"][known])


def signs_of(
    path: Path, networks: Sequence[HeatmapNetwork], device: torch.device, cascade: Cascade | None = None
) -> Signed | None:
    """Of an attribution shard; None of an empty one. The networks are on the device, and so is the cascade, if any."""
    shard = read_shard(path)
    if not len(shard["index"]):
        return None
    evidence = Evidence.from_tensors(shard).float().to(device)
    return Signed.of(shard, evidence, *score_of_both(cascade, networks, evidence), views=cascade is None)


def fit_reliability(
    job: Job, networks: Sequence[HeatmapNetwork], clean: Sequence[Signed], cascade: Cascade | None = None
) -> Reliability | None:
    """Fit the head and calibrate it.

    Args:
        job: Its attribution shards of the fit split are finished.
        networks: Fitted, on the job's device.
        clean: Parts of the calibrate split, in every way in which images arrive.
        cascade: The first look, on the job's device, where there is one.

    Returns:
        None, which the job's progress is told, where right or wrong predictions are not known.
    """
    reader = ShardReader(job.config, job.work, job.config.fit)
    parts: list[Signed] = []
    weights: list[Tensor] = []
    risky: list[Tensor] = []
    with job.progress.task("reliability", total=len(reader.label), unit="shards") as advance:
        for path, label in reader.label.items():
            found = signs_of(path, networks, job.classifier.device, cascade)
            advance(1)
            if found is None:
                continue
            parts.append(found)
            weights.append(torch.full((len(found.wrong),), reader.weight[label], dtype=torch.float64))
            if label == CLEAN:
                risky.append(found.signs)
    try:
        fitted, calibrate = Signed.cat(parts), Signed.cat(clean)
        head = RiskHead.fit(fitted.signs, fitted.wrong, torch.cat(weights), views=cascade is None)
        once = in_one_way(calibrate.source, derived_seed(job.config.seed, "reliability"))
        risks = head(calibrate.signs[once])
        return Reliability.fit(head, levels_of(head(torch.cat(risky))), risks, calibrate.wrong[once])
    except CalibrationError as error:
        job.progress.note(f"{error}; the bundle promises no error rate of predictions")
        return None


def in_one_way(source: Tensor, seed: int) -> Tensor:
    """(n,) rows: of each photograph one, drawn among those that it has."""
    order = np.random.default_rng(seed).permutation(len(source))
    _, first = np.unique(source.numpy()[order], return_index=True)
    return torch.from_numpy(order[first])

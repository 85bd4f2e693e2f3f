"""What detectors say about a split: shards in, one `Scored` table a detector and label out.

Shards are read one at a time and only a few numbers an image are kept, so memory does not grow with the size of images
or evidence. Of an attack only the images whose prediction changed are kept: the others are no attacks that worked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.evidence import Evidence
from detector.scoring.cascade import Cascade, score_of_both
from detector.scoring.network import HeatmapNetwork
from training.shards import read_columns, read_shard

__all__ = [
    "ROWS_AT_ONCE",
    "Answers",
    "Attempts",
    "Scored",
    "by_network",
    "from_evidence",
    "read_attempts",
    "runner_up",
    "scorer",
    "table_of",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
ROWS_AT_ONCE = 256
RECOVERED = 6  # origin labels named, where there are as many candidates: five besides the prediction


@dataclass(frozen=True)
class Answers:
    """What a detector says of n images."""

    score: Tensor  # (n,) float32, higher = more likely attacked
    recovered: Tensor  # (n, R) int64, the likeliest origin labels, best first, the prediction where it is likely


@dataclass(frozen=True)
class Scored:
    """One detector's answers about n images of one label."""

    source: Ints  # (n,) source image
    truth: Ints  # (n,) -1 where unknown
    origin: Ints  # (n,) the classifier's prediction before the attack
    prediction: Ints  # (n,)
    score: Floats  # (n,) higher = more likely attacked
    recovered: Ints  # (n, R) given an attack: likeliest origin labels, best first, the prediction last
    corrected: Ints  # (n,) over all images: the likeliest label

    def __len__(self) -> int:
        return len(self.source)

    @property
    def correct(self) -> Bools:
        """Rightly classified; all of them where the truth is unknown."""
        right: Bools = (self.prediction == self.truth) | (self.truth < 0)
        return right

    @property
    def fair(self) -> Bools:
        """Rightly classified before the attack."""
        right: Bools = (self.origin == self.truth) | (self.truth < 0)
        return right

    @classmethod
    def cat(cls, parts: Sequence[Scored]) -> Scored:
        """Several tables as one."""
        parts = [part for part in parts if len(part)] or parts[:1]  # an empty one does not know how many are recovered
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in parts[0].__dict__})

    def __getitem__(self, rows: Bools) -> Scored:
        return Scored(**{name: column[rows] for name, column in self.__dict__.items()})


@dataclass(frozen=True)
class Attempts:
    """Every attempt of one attack on a rightly classified image, whether it worked or not."""

    source: Ints  # (n,)
    success: Bools  # (n,) the prediction changed
    linf: Floats  # (n,) in [0, 1] units
    l2: Floats  # (n,)


def scorer(
    networks: Sequence[HeatmapNetwork], device: torch.device, cascade: Cascade | None = None
) -> Callable[[Evidence], tuple[Tensor, Tensor]]:
    """Attack score (B,) and origin probabilities (B, C) as a detector gives them, from all evidence of every image."""
    full = [network.to(device) for network in networks]
    first = None if cascade is None else cascade.to(device)

    return lambda evidence: score_of_both(first, full, evidence.float().to(device))


def by_network(
    networks: Sequence[HeatmapNetwork], device: torch.device, cascade: Cascade | None = None
) -> Callable[[Evidence], Answers]:
    """The heatmap networks, with what may clear images before them, as a function of evidence."""
    judge = scorer(networks, device, cascade)

    def answer(evidence: Evidence) -> Answers:
        attack_score, origin = judge(evidence)
        best = origin.cpu().argsort(1, descending=True)[:, :RECOVERED]
        return Answers(attack_score.cpu(), evidence.candidates.cpu().gather(1, best))

    return answer


def runner_up(logits: Tensor) -> Answers:
    """The untrained baseline: (n, K) logits to minus the top-two margin, and the classes after the predicted one."""
    top = logits.float().topk(min(RECOVERED + 1, logits.shape[1]), dim=1)
    recovered = torch.cat([top.indices[:, 1:], top.indices[:, :1]], dim=1)[:, :RECOVERED]
    return Answers(top.values[:, 1] - top.values[:, 0], recovered)


def from_evidence(
    paths: Sequence[Path],
    answers: Mapping[str, Callable[[Evidence], Answers]],
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Scored]:
    """Score attribute shards with several detectors in one reading.

    Args:
        paths: attribute shards of one label.
        answers: detector to function.
        advance: told of every shard done.
    """
    rows: list[dict[str, Tensor]] = []
    said: dict[str, list[Answers]] = {name: [] for name in answers}
    for path in paths:
        shard = read_shard(path)
        if len(shard["index"]):
            rows.append({name: shard[name] for name in ("index", "truth", "origin", "prediction")})
            evidence = Evidence.from_tensors(shard)
            for name, answer in answers.items():
                said[name] += [
                    answer(evidence[start : start + ROWS_AT_ONCE]) for start in range(0, len(evidence), ROWS_AT_ONCE)
                ]
        advance(1)
    return {name: table_of(rows, parts) for name, parts in said.items()}


def read_attempts(paths: Sequence[Path]) -> Attempts:
    """All attempts of one attack on rightly classified images; the images stay on disk."""
    columns: dict[str, list[Tensor]] = {name: [] for name in ("index", "truth", "origin", "prediction", "linf", "l2")}
    for path in paths:
        for name, column in read_columns(path, tuple(columns)).items():
            columns[name].append(column)
    joined = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
    fair = (joined["origin"] == joined["truth"]) | (joined["truth"] < 0)
    joined = {name: column[fair] for name, column in joined.items()}
    return Attempts(
        joined["index"].astype(np.int64),
        joined["prediction"] != joined["origin"],
        joined["linf"].astype(np.float64),
        joined["l2"].astype(np.float64),
    )


def table_of(rows: Sequence[Mapping[str, Tensor]], said: Sequence[Answers]) -> Scored:
    """Columns of shards and what was said about their rows, part by part, as one table."""

    def column(name: str) -> Ints:
        return torch.cat([part[name] for part in rows]).numpy() if rows else np.zeros(0, dtype=np.int64)

    prediction = column("prediction")
    likeliest = torch.cat([part.recovered for part in said]).numpy() if said else np.zeros((0, RECOVERED), np.int64)
    others_first = np.argsort(likeliest == prediction[:, None], axis=1, kind="stable")
    return Scored(
        source=column("index"),
        truth=column("truth"),
        origin=column("origin"),
        prediction=prediction,
        score=torch.cat([part.score.double() for part in said]).numpy() if said else np.zeros(0),
        recovered=np.take_along_axis(likeliest, others_first, axis=1),
        corrected=likeliest[:, 0],
    )

"""Networks that see a part of the evidence: attribution shards and a filter in, what they say about any shards out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from training.config import TrainingConfig
from training.evaluation.scores import Scored, by_network, from_evidence
from training.fitting.networks import fit_networks, load_networks
from training.fitting.rows import EvidenceFilter
from training.progress import Progress
from training.shards import list_shards

__all__ = ["fitted"]


def fitted(
    config: TrainingConfig, keep: EvidenceFilter, progress: Progress, device: torch.device
) -> Callable[[str, str], Scored]:
    """Fit networks; split and label → their answers, by the same part of the evidence."""
    with tempfile.TemporaryDirectory() as folder:
        fit_networks(config, config.work, progress, Path(folder), keep)
        answer = by_network(load_networks(Path(folder)), device)

    def scored(split: str, label: str) -> Scored:
        answers = {"": lambda evidence: answer(keep(evidence.float()))}
        return from_evidence(list_shards(config.work, "attribute", split, label), answers)[""]

    return scored

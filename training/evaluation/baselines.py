"""What the detector is measured against in every evaluation: the classifier's logits alone.

Trained rivals that look at images are measured by benchmarks/detection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RECOVERED", "Answers", "runner_up"]

RECOVERED = 6  # origin labels named, where there are as many candidates: five besides the prediction


@dataclass(frozen=True)
class Answers:
    """What a detector says of n images."""

    score: Tensor  # (n,) float32, higher = more likely attacked
    recovered: Tensor  # (n, R) int64, the likeliest origin labels, best first, the prediction where it is likely


def runner_up(logits: Tensor) -> Answers:
    """The untrained baseline: (n, K) logits to minus the top-two margin, and the classes after the predicted one."""
    top = logits.float().topk(min(RECOVERED + 1, logits.shape[1]), dim=1)
    recovered = torch.cat([top.indices[:, 1:], top.indices[:, :1]], dim=1)[:, :RECOVERED]
    return Answers(top.values[:, 1] - top.values[:, 0], recovered)

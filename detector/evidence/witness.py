"""What the witness, a second classifier, says of the same image: its answers → **the groups `witness.…`**.

Sources: Wei et al. 2024, "PID" (a second model's view of the same image).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["testify"]


def testify(logits: Tensor, said: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    """The witness's answers against the classifier's.

    Args:
        logits: (B, K) of the classifier.
        said: (B, 2, K) logits of the witness: about the image, and about the mirrored image.
        candidates: (B, C) class indices; candidate 0 is the prediction.
    """
    own, mirrored = said.unbind(1)
    log_classifier = logits.log_softmax(1)
    log_witness, log_mirrored = own.log_softmax(1), mirrored.log_softmax(1)
    predicted = candidates[:, :1]
    log_mean = torch.stack([log_witness, log_mirrored]).logsumexp(0) - math.log(2)
    mean = log_mean.exp()

    def of_candidates(*values: Tensor) -> Tensor:  # (B, K) each → (B, C, n)
        return torch.stack([each.gather(1, candidates) for each in values], dim=-1)

    return {
        "witness.answer": torch.stack(
            [
                log_witness.gather(1, predicted)[:, 0],
                mean.gather(1, predicted)[:, 0],
                mean.amax(1),
                -(mean * log_mean).sum(1),
            ],
            dim=1,
        ),
        "witness.divergence": torch.stack(
            [
                (mean * (log_mean - log_classifier)).sum(1),
                (log_classifier.exp() * (log_classifier - log_mean)).sum(1),
            ],
            dim=1,
        ),
        "witness.log_probability": of_candidates(log_witness, log_mirrored),
        "witness.logit": of_candidates(own - own.mean(1, keepdim=True)),
        "witness.log_ratio": of_candidates(log_witness - log_classifier),
    }

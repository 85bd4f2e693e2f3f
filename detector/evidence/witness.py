"""What the witness, a second classifier, says of the same image: its answer → **the groups `witness.…`**.

Sources: Wei et al. 2024, "PID" (a second model's view of the same image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Answer", "testify"]


@dataclass(frozen=True)
class Answer:
    """What the witness says."""

    logits: Tensor  # (B, K), attached to the graph
    activation: Tensor  # (B, D, h, w) of its deep layer, likewise
    mirrored: Tensor  # (B, K) logits of the mirrored image

    @property
    def votes(self) -> Tensor:
        """(B, K) mean probabilities."""
        return (self.logits.detach().softmax(1) + self.mirrored.softmax(1)) / 2


def testify(
    logits: Tensor, answer: Answer, candidates: Tensor, class_maps: Tensor, own_maps: Tensor
) -> dict[str, Tensor]:
    """The witness's answer and its maps for the candidates (B, C, g, g), against the classifier's."""
    own = answer.logits.detach()
    log_classifier = logits.log_softmax(1)
    log_witness, log_mirrored = own.log_softmax(1), answer.mirrored.log_softmax(1)
    agreement = functional.cosine_similarity(_contrast(class_maps), _contrast(own_maps), dim=-1)  # (B, C)
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
        "witness.map_agreement": agreement[..., None],
        "witness.maps": own_maps[:, :, None],
    }


def _contrast(maps: Tensor) -> Tensor:
    """(B, C, g, g) → (B, C, g·g): what a class's map has beyond the mean of all classes'."""
    return (maps - maps.mean(1, keepdim=True)).flatten(2)

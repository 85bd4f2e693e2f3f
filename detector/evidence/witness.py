"""What the witness, a second classifier, says of the same image: its answer → **maps, class features, disagreement**.

Sources: Wei et al. 2024, "PID" (a second model's view of the same image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DISAGREEMENT", "DIVERGENCE", "TESTIMONY", "Answer", "Testimony", "testify"]

TESTIMONY = 5  # class features of the witness: log P, log P of the mirror image, …
DISAGREEMENT, DIVERGENCE = 6, 4  # image features of the witness; where KL(witness ‖ classifier) is among them


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


@dataclass(frozen=True)
class Testimony:
    """What is made of it."""

    maps: Tensor  # (B, C, g, g)
    class_features: Tensor  # (B, C, TESTIMONY), last of all class features
    disagreement: Tensor  # (B, DISAGREEMENT)


def testify(logits: Tensor, answer: Answer, candidates: Tensor, class_maps: Tensor, own_maps: Tensor) -> Testimony:
    """The witness's answer and its maps for the candidates (B, C, g, g), against the classifier's."""
    own = answer.logits.detach()
    log_classifier = logits.log_softmax(1)
    log_witness, log_mirrored = own.log_softmax(1), answer.mirrored.log_softmax(1)
    per_class = [log_witness, log_mirrored, own - own.mean(1, keepdim=True), log_witness - log_classifier]
    agreement = functional.cosine_similarity(_contrast(class_maps), _contrast(own_maps), dim=-1)  # (B, C)
    predicted = candidates[:, :1]
    log_mean = torch.stack([log_witness, log_mirrored]).logsumexp(0) - math.log(2)
    mean = log_mean.exp()
    return Testimony(
        maps=own_maps,
        class_features=torch.stack([*(each.gather(1, candidates) for each in per_class), agreement], dim=-1),
        disagreement=torch.stack(
            [
                log_witness.gather(1, predicted)[:, 0],
                mean.gather(1, predicted)[:, 0],
                mean.amax(1),
                -(mean * log_mean).sum(1),
                (mean * (log_mean - log_classifier)).sum(1),
                (log_classifier.exp() * (log_classifier - log_mean)).sum(1),
            ],
            dim=1,
        ),
    )


def _contrast(maps: Tensor) -> Tensor:
    """(B, C, g, g) → (B, C, g·g): what a class's map has beyond the mean of all classes'."""
    return (maps - maps.mean(1, keepdim=True)).flatten(2)

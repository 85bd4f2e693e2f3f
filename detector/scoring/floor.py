"""A floor under the witness's answer: how rare so little support for the prediction is among clean images.

    evidence ─▶ −log P(prediction), by the witness, of image and mirror image: their mean
             ─▶ how often one would have to halve the clean images until the share that has more is left ─▶ nats, (B,)

A rule beside the networks, which nothing else can outweigh: the attack score is the greater of the two (ADR 34).
Whoever has the bundle makes the networks give way somewhere among hundreds of numbers; here they must fool the witness.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.errors import BundleDamagedError
from detector.evidence import Evidence

__all__ = ["HALVINGS", "WITNESS", "Floor", "unsupported"]

WITNESS = "witness.log_probability"
HALVINGS = 8
"""The last threshold leaves one of 2^8 clean images."""
LEAST = 1e-6  # nats: nearer thresholds are one


class Floor(nn.Module):
    """Evidence → (B,), 0 and up; 0 for everything before `fit`, and for the better half of clean images after it."""

    clean: Tensor

    def __init__(self) -> None:
        super().__init__()
        # (HALVINGS,) what a half, a quarter, … of clean images have more of, ascending
        self.register_buffer("clean", torch.full((HALVINGS,), torch.inf))

    @torch.no_grad()
    def fit(self, clean: Evidence) -> None:
        """Learn what is usual of clean images."""
        levels = 1 - 0.5 ** torch.arange(1, HALVINGS + 1, dtype=torch.float32, device=clean.logits.device)
        self.clean.copy_(torch.quantile(unsupported(clean).float(), levels))

    def check(self) -> None:
        """See that the table, as a bundle holds it, is one.

        Raises:
            BundleDamagedError: It is not finite and ascending: every image would have a score of no meaning.
        """
        if not self.clean.isfinite().all() or (self.clean.diff() < 0).any():
            raise BundleDamagedError(
                f"floor.clean: expected {HALVINGS} ascending finite numbers, got {self.clean.tolist()}: train the "
                "bundle again"
            )

    def forward(self, evidence: Evidence) -> Tensor:
        found, clean = unsupported(evidence).double(), self.clean.double()
        passed = torch.searchsorted(clean, found.detach().contiguous())
        low = (passed - 1).clamp(0, HALVINGS - 2)
        between = low + ((found - clean[low]) / (clean[low + 1] - clean[low]).clamp_min(LEAST)).clamp(0, 1)
        step = (clean[-1] - clean[0]) / (HALVINGS - 1)  # of the whole table: its end rests on few images
        beyond = HALVINGS - 1 + (found - clean[-1]) / step.clamp_min(LEAST)
        halvings = torch.where(passed == HALVINGS, beyond, torch.where(passed > 0, between, 0.0))
        return math.log(2) * halvings


def unsupported(evidence: Evidence) -> Tensor:
    """(B,) mean −log P of the prediction, by the witness, over the image and its mirror image."""
    return -evidence.groups[WITNESS][:, 0].mean(1)

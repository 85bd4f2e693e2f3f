"""How unlike clean images an image is: learned from clean images and noise twins alone, from no attack.

    evidence ─▶ doubt       how little the witness and the margin speak for the prediction
                divergence  KL(witness ‖ classifier)
                stability   Mahalanobis distance of how far the channel heatmap moves under the views, where it is seen
                classes     Mahalanobis distance of the classifier's answers about the first three candidates
             ─▶ −log of the share of clean images with a higher number, each ─▶ their sum, (B,)

A network learns to ignore what the attacks of its training do not need; the next attack may need it. Sources: Lee et
al. 2018 (Mahalanobis distance); Fisher 1932 (sum of −log p).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.evidence import Evidence, EvidenceShape
from detector.scoring.standardise import Standardise
from detector.settings import ScoreSettings
from detector.surrogate import straight

__all__ = ["Novelty"]

RIDGE = 0.3  # of the mean variance, when it is fitted
STABILITY = ("views.stability",)
CLASSES = ("classes.logit", "views.logit", "classes.log_probability", "views.log_probability")
DIVERGENCE = "witness.divergence"


class Mahalanobis(nn.Module):
    """x (B, n) → (B,) mean squared distance from the fit images, along whitened axes."""

    whiten: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standardise = Standardise((size,))
        self.register_buffer("whiten", torch.zeros(size, size))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and covariance from x (N, n)."""
        self.standardise.fit(x)
        standard = self.standardise(x).double()
        covariance = standard.T @ standard / len(x)
        ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-6)
        covariance += ridge * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        self.whiten.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)))

    def forward(self, x: Tensor) -> Tensor:
        whitened: Tensor = self.standardise(x) @ self.whiten
        return whitened.square().mean(1)


class Novelty(nn.Module):
    """Evidence → (B,), 0 and up; 0 for everything before `fit`.

    Args:
        shape: Sizes of the evidence.
        settings: What it looks at.
    """

    clean: Tensor

    def __init__(self, shape: EvidenceShape, settings: ScoreSettings) -> None:
        super().__init__()
        self.settings = settings
        stability = shape.columns(STABILITY)  # none of a black box
        self.stability = Mahalanobis(stability) if stability else None
        self.classes = Mahalanobis(min(settings.first_candidates, shape.candidates) * shape.columns(CLASSES))
        numbers = 2 + (self.stability is not None) + (DIVERGENCE in shape.groups)
        # (numbers, Q) quantiles of clean images, ascending
        self.register_buffer("clean", torch.full((numbers, settings.quantiles), torch.inf))

    @torch.no_grad()
    def fit(self, clean: Evidence, unharmed: Evidence) -> None:
        """Learn what is usual.

        Args:
            clean: Clean images, whose share is counted.
            unharmed: Clean images and noise twins, for the distances.
        """
        if self.stability is not None:
            self.stability.fit(unharmed.columns(STABILITY))
        self.classes.fit(self._first(unharmed))
        count = self.settings.quantiles
        levels = (torch.arange(count, device=clean.logits.device) + 0.5) / count
        self.clean.copy_(torch.quantile(self._numbers(clean), levels, dim=0).T)

    def forward(self, evidence: Evidence) -> Tensor:
        numbers = self._numbers(evidence).T.contiguous()  # (numbers, B)
        lower = torch.searchsorted(self.clean, numbers)
        log_share = self._share(lower).log()
        if numbers.requires_grad:
            log_share = straight(log_share, self._slope(lower) * numbers)
        return -log_share.sum(0)

    def _share(self, lower: Tensor) -> Tensor:
        """Of clean images with a higher number, by how many quantiles are lower."""
        count = self.settings.quantiles
        return (1 + count - lower) / (1 + count)

    def _slope(self, lower: Tensor) -> Tensor:
        """Of the table's log share between quantiles; beyond the last that before it, below the first none."""
        above = lower.clamp(1, self.settings.quantiles - 1)
        run = self.clean.gather(1, above) - self.clean.gather(1, above - 1)
        rise = self._share(above).log() - self._share(above - 1).log()
        return torch.where((lower > 0) & (run > 0) & run.isfinite(), rise / run, 0.0)

    def _numbers(self, evidence: Evidence) -> Tensor:
        """(B, numbers), each higher for what is less usual."""
        numbers = [doubt(evidence, self.settings.margin_share)]
        if self.stability is not None:
            numbers.append(self.stability(evidence.columns(STABILITY)))
        numbers.append(self.classes(self._first(evidence)))
        if DIVERGENCE in evidence.groups:
            from_classifier, _ = evidence.groups[DIVERGENCE].unbind(1)
            numbers.append(from_classifier)
        return torch.stack(numbers, dim=1)

    def _first(self, evidence: Evidence) -> Tensor:
        return evidence.columns(CLASSES)[:, : self.settings.first_candidates].flatten(1)


def doubt(evidence: Evidence, margin_share: float) -> Tensor:
    """(B,) −P(witness) − margin_share · margin of probabilities; without a witness the margin alone.

    P(witness) is the witness's mean probability of the predicted class on the image and on its mirror image, noisy
    or not.
    """
    first, second = evidence.logits.softmax(1).topk(2).values.unbind(1)
    if "witness.log_probability" not in evidence.groups:
        return second - first
    witness = evidence.groups["witness.log_probability"][:, 0].exp().mean(1)
    return -witness - margin_share * (first - second)

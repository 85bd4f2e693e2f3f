"""Evidence and what the networks said about it → **log-odds that the classifier's prediction is wrong**.

    attack score, P(origin = prediction), margin, P(prediction) under the views, the witness's ─▶ 5 signs ─▶ RiskHead

A logistic regression on five numbers: what is to tell right predictions from wrong ones on images of any kind, with
labels from so few photographs, must be simple. With a cascade it does without the views, which only some images have:
it is then one function of every image, cleared or not. Sources: Platt 1999 (logistic calibration); Nouretdinov, Luo &
Gammerman 2010, Corbière et al. 2019, "Addressing failure prediction by learning model confidence" (a second model is
asked whether the first is right).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from detector.errors import CalibrationError
from detector.evidence import Evidence

__all__ = ["RiskHead", "signs"]

RIDGE = 1.0  # of standardised weights, against the sum over all rows
FARTHEST = 5.0  # standard deviations: an image unlike all that was fitted must not get an extreme answer from one sign
STEPS = 100
SURE = 1e-12


def signs(evidence: Evidence, attack_score: Tensor, origin: Tensor, *, views: bool = True) -> Tensor:
    """(B, 5) float64 on the CPU, what the risk is read from; one less without a witness, and one without views.

    Args:
        evidence: About B images.
        attack_score: (B,).
        origin: (B, C) origin probabilities of the candidates, the prediction first.
        views: Whether the views are read.

    Raises:
        KeyError: The views are to be read, and the evidence has none.
    """
    first, second = evidence.logits.double().topk(2).values.unbind(1)
    found = [attack_score.double(), _log_odds(origin[:, 0].double()), first - second]
    if views:
        own = evidence.groups["classes.log_probability"][:, 0].double()  # (B, 1)
        found.append(_log_odds((own + evidence.groups["views.log_probability"][:, 0].double()).exp().mean(1)))
    if "witness.log_probability" in evidence.groups:
        found.append(_log_odds(evidence.groups["witness.log_probability"][:, 0].double().exp().mean(1)))
    return torch.stack([each.cpu() for each in found], dim=1)


@dataclass(frozen=True)
class RiskHead:
    """F signs → log-odds.

    Attributes:
        mean: (F,) float64 of each sign.
        scale: (F,) float64, its standard deviation.
        weights: (F + 1,) float64 of the standardised signs, and the constant.
        views: Whether one of the signs is that of the views.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    views: bool = field(default=True, kw_only=True)

    @classmethod
    def fit(cls, found: Tensor, wrong: Tensor, weight: Tensor, *, views: bool = True) -> RiskHead:
        """Logistic regression by Newton's method: the same rows give the same head.

        Args:
            found: (N, F) `signs`.
            wrong: (N,) whether the prediction was.
            weight: (N,) above 0; their scale is of no account.
            views: Whether one of the signs is that of the views.

        Raises:
            CalibrationError: All predictions were right, or all wrong; or a sign is not finite.
        """
        wrong = wrong.double()
        if not len(wrong) or bool((wrong == wrong[0]).all()):
            what = (
                "no image" if not len(wrong) else "wrong predictions alone" if wrong[0] else "right predictions alone"
            )
            raise CalibrationError(f"reliability: expected right and wrong predictions to learn from, got {what}")
        if not bool(found.isfinite().all()):
            raise CalibrationError("reliability: a sign is NaN or infinite: the network is broken")
        weight = weight.double() / weight.double().mean()
        mean = (weight[:, None] * found).mean(0)
        scale = (weight[:, None] * (found - mean).square()).mean(0).sqrt().clamp_min(1e-9)
        head = cls(mean, scale, torch.zeros(found.shape[1] + 1, dtype=torch.float64))
        rows = head._rows(found)
        ridge = RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
        ridge[-1, -1] = 1e-6  # the constant is free
        return cls(mean, scale, _newton(rows, wrong, weight, ridge), views=views)

    def __call__(self, found: Tensor) -> Tensor:
        """(B,) float64: higher is riskier."""
        return self._rows(found) @ self.weights

    def _rows(self, found: Tensor) -> Tensor:
        standard = ((found - self.mean) / self.scale).clamp(-FARTHEST, FARTHEST)
        return torch.cat([standard, torch.ones(len(found), 1, dtype=torch.float64)], dim=1)


def _newton(rows: Tensor, wrong: Tensor, weight: Tensor, ridge: Tensor) -> Tensor:
    """The weights of the smallest regularised log-loss; a step that does not lower it is halved."""

    def loss(weights: Tensor) -> float:
        odds = rows @ weights
        data = (weight * (torch.nn.functional.softplus(odds) - wrong * odds)).sum()
        return float(data + weights @ ridge @ weights / 2)

    weights = torch.zeros(rows.shape[1], dtype=torch.float64)
    now = loss(weights)
    for _ in range(STEPS):
        chance = (rows @ weights).sigmoid()
        slope = rows.T @ (weight * (chance - wrong)) + ridge @ weights
        curve = rows.T @ (rows * (weight * chance * (1 - chance))[:, None]) + ridge
        step = torch.linalg.solve(curve, slope)
        before = now
        while (now := loss(weights - step)) > before and float(step.abs().max()) > SURE:
            step = step / 2
        if now >= before:
            break
        weights = weights - step
    return weights


def _log_odds(probability: Tensor) -> Tensor:
    return probability.clamp(SURE, 1 - SURE).logit()

"""Did a patch change the answer? Answers about covered images, calibrated → `Patches` → **p-values, and certificates**.

Each image is looked at again under n masks (`detector.evidence.covering`), of which at least one surely hides a patch.
Write V_i(x)[k] for how strongly the answer about x under mask i contradicts class k: log P(the likeliest other class) −
log P(k), negative where k itself is the likeliest.

*Score.* S(x) = max_i V_i(x)[y(x)]: the strongest contradiction to the prediction y(x) of the whole image. Its p-value
p(S) is conformal, a rank among the scores of clean images: of clean images at most the share a has p ≤ a.

*Bound.* For a clean image x and a label y, its truth or its prediction,

    A(x, y) = min over places Q of a patch, min over k ≠ y, max over masks i that hide Q, V_i(x)[k].

**Theorem.** Let x' equal x outside some square of `Covering.side` pixels, and be anything in it. If y(x') ≠ y, then
S(x') ≥ A(x, y), and so p(S(x')) ≤ p(A(x, y)): where the *certificate* p(A(x, y)) is at most a, every such x' is flagged
at rate a.
*Proof.* Let Q be that square, k = y(x') ≠ y. A mask i that hides Q is filled with what lies outside of it, where x and
x' are equal: x under i and x' under i are one image, with one answer, so V_i(x')[k] = V_i(x)[k]. S(x') is a maximum
over all masks, so at least that over those that hide Q; A is the least of such maxima over every Q and k ≠ y. And p
falls as its score grows. ∎

Nothing is assumed of classifier or attacker: who knows masks, weights and thresholds is covered as well. Not covered:
what is larger, or in two places; changes beside it; a wrong answer about the clean image, if y is its prediction.
The bound is of images of the classifier's size: where a photograph is made smaller, the edge of a patch smears over
about a pixel more.

Agreement of all masks with the prediction, S < 0, is the rule of McCoyd et al. 2020, "Minority Reports", Huang, Ma & Li
2023, "PatchCensor", and Lyu et al. 2026, "CertMask". Zhou et al. 2025, "HiCert", bound confidences as A does; here the
bound is by place of the patch and the threshold conformal (Vovk et al. 2005), as for attack scores (ADR 33).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration

__all__ = ["Patches", "answers_under", "bound", "contradiction", "looked_for", "score_of"]

SLACK = 1e-3
"""A batch that is put together otherwise moves logits by less: what a bound is lowered by, so that it is one."""
AT_ONCE = 256
"""Images of one forward pass; bounds memory."""


@dataclass(frozen=True)
class Patches:
    """What is needed to look for patches.

    Attributes:
        covering: The masks.
        calibration: Scores of clean images under them.
    """

    covering: Covering
    calibration: Calibration

    def p_value(self, classifier: Classifier, images: Tensor, predictions: Tensor) -> Tensor:
        """P-values (B,) float64 that no patch made these predictions (B,) of images (B, 3, H, W).

        Raises:
            NonFiniteLogitsError: The classifier answered NaN or infinity.
        """
        return self.calibration.p_value(score_of(answers_under(self.covering, classifier, images), predictions))

    def certificate(self, classifier: Classifier, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B,) float64: the largest p-value that any patch can have which makes the prediction another than the label.

        Args:
            classifier: The one under guard.
            images: (B, 3, H, W), clean.
            labels: (B,) the truth; None: the predictions of these images.
        """
        if labels is None:
            with torch.no_grad():
                labels = classifier(images.to(classifier.device)).argmax(1)
        return self.calibration.p_value(bound(self.covering, answers_under(self.covering, classifier, images), labels))


def looked_for(patches: Patches | None) -> Patches:
    """What a bundle has for looking for patches.

    Raises:
        ConfigError: It has nothing.
    """
    if patches is None:
        raise ConfigError(
            "the bundle was not made to look for patches: train it with a table [patches] in the configuration"
        )
    return patches


@torch.no_grad()
def answers_under(covering: Covering, classifier: Classifier, images: Tensor) -> Tensor:
    """Logits (B, n, K) on the CPU of images (B, 3, H, W) under each mask."""
    few = max(1, AT_ONCE // len(covering.windows))
    found = []
    for part in torch.split(images.to(classifier.device), few):
        said = []
        for at in range(0, len(covering.windows), AT_ONCE):
            covered = covering.covered(part, slice(at, at + AT_ONCE))  # (b, n', 3, H, W)
            logits = classifier(covered.flatten(0, 1))
            said.append(logits.reshape(*covered.shape[:2], logits.shape[1]).cpu())
        found.append(torch.cat(said, 1))
    return torch.cat(found)


def contradiction(logits: Tensor) -> Tensor:
    """(…, K) logits → (…, K): how far each class lies below the likeliest other one."""
    best, at = logits.topk(2, dim=-1)
    other = best[..., :1].expand_as(logits).scatter(-1, at[..., :1], best[..., 1:])
    return other - logits


def score_of(answers: Tensor, predictions: Tensor) -> Tensor:
    """S, (B,): answers (B, n, K) under the masks, predictions (B,) of the whole images."""
    against = contradiction(answers)
    return against.gather(2, predictions.cpu()[:, None, None].expand(-1, against.shape[1], 1))[..., 0].amax(1)


def bound(covering: Covering, answers: Tensor, labels: Tensor) -> Tensor:
    """A, (B,): answers (B, n, K) about clean images under the masks, their labels (B,)."""
    against = contradiction(answers)
    least = torch.full_like(against[:, 0], torch.inf)  # (B, K)
    for masks in covering.around:
        least = torch.minimum(least, against[:, list(masks)].amax(1))
    return least.scatter(1, labels.cpu()[:, None], torch.inf).amin(1) - SLACK

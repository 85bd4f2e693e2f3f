"""Attackers who stick a patch on: the classifier and clean images in, the patched images out.

`Patch` of `training.attacks` knows the classifier alone. `Informed` knows the masks as well: it takes the place and the
class of which the bound of `detector.scoring.patches` is, where the masks that hide the patch contradict least, and
learns colours that speak for the class under all the others (signed steps on a smooth maximum of the contradictions;
where a pass for each mask is too dear, of some masks drawn for each step, and only the last steps are judged).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.evidence.covering import Covering
from detector.scoring.patches import answers_under, contradiction, score_of

__all__ = ["Informed", "weakest"]

JUDGED = 5
"""Steps at the end that are judged where each asks some masks only."""


@dataclass(frozen=True)
class Informed:
    """An attacker who knows everything."""

    classifier: Classifier
    covering: Covering
    steps: int = 30
    alpha: float = 0.15
    """Size of the first step; the last is a tenth of it."""
    drawn: int | None = None
    """Masks that are asked in a step; None asks all of them."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, 3, H, W) with a patch each, 8 bits: the least contradicted that fools; where none fools, the last."""
        answers = answers_under(self.covering, self.classifier, images)
        return torch.stack(
            [
                self._one(image, int(label), *weakest(self.covering, said, int(label)))
                for image, label, said in zip(images, labels, answers, strict=True)
            ]
        )

    def _one(self, image: Tensor, label: int, place: tuple[int, int], claim: int) -> Tensor:
        (top, left), side = place, self.covering.side
        colours = torch.rand(3, side, side)
        best, least = image, torch.inf
        judged = 0 if self.drawn is None else self.steps - JUDGED
        for step in range(self.steps + 1):
            colours.requires_grad_()
            patched = image.clone()
            patched[:, top : top + side, left : left + side] = colours
            some = torch.randperm(len(self.covering.windows))[: self.drawn]
            seen = torch.cat([patched[None], self.covering.covered(patched[None])[0, some]])
            against = contradiction(self.classifier(seen))[:, claim]
            (gradient,) = torch.autograd.grad(against.logsumexp(0) + against[0], colours)
            rounded = (patched.detach() * 255).round()[None] / 255
            said = self._said(rounded)
            if step >= judged and (int(said) != label or step == self.steps):
                score = float(score_of(answers_under(self.covering, self.classifier, rounded), said))
                if int(said) != label and score < least:
                    best, least = rounded[0], score
                elif least == torch.inf:
                    best = rounded[0]
            size = self.alpha * (1 - 0.9 * step / self.steps)
            colours = (colours.detach() - size * gradient.sign()).clamp(0, 1)
        return best

    @torch.no_grad()
    def _said(self, images: Tensor) -> Tensor:
        return self.classifier(images).argmax(1)


def weakest(covering: Covering, answers: Tensor, label: int) -> tuple[tuple[int, int], int]:
    """Of one clean image: the place of a patch and the false class that answers (n, K) under masks contradict least."""
    against = contradiction(answers)
    most = torch.stack([against[list(masks)].amax(0) for masks in covering.around])  # (places, K)
    most[:, label] = torch.inf
    place, claim = divmod(int(most.argmin()), most.shape[1])
    return list(covering.around.values())[place], claim

"""Rules that a second classifier decides: the answers to clean images go in, a rule at a false-alarm rate comes out.

A rule says how far the answers to an image are from being let through as one class: 0 or less is let through. It hides
no gradient, so whoever attacks it can descend it: what it withstands, the nets withstand.

    none           nothing is flagged: what fools the classifier
    log-p          the witness's log P of the prediction
    mirrored       the mean log P of the image and of its mirror image
    margin         the witness's logit of the prediction, less the greatest other
    rank           the prediction's place among the witness's classes; where places are equal, log P
    by-confidence  log P, with a threshold for each fifth of the classifier's margins (Mondrian conformal prediction,
                   Vovk et al. 2005, section 4.5)
    both           the smaller of two ranks among clean images: of the classifier's margin, and of the witness's log P
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RULES", "Answers", "Lacks", "margin", "predicted"]

BINS = 5
LEAST_LOG_P = 50.0  # of it, so that log P decides between equal places only


@dataclass(frozen=True)
class Answers:
    """Logits of B images, each (B, K)."""

    classifier: Tensor
    witness: Tensor
    mirrored: Tensor
    """The witness's, of the mirrored images."""


Lacks = Callable[[Answers, Tensor], Tensor]
"""Answers and a class of each image (B,) → how far the image is from being let through as that class (B,)."""

Rule = Callable[[Answers, float], Lacks]
"""Answers to clean images and a false-alarm rate → the rule."""

Score = Callable[[Answers, Tensor], Tensor]
"""Answers and a class of each image (B,) → the greater, the less suspicious (B,)."""


def predicted(answers: Answers) -> Tensor:
    return answers.classifier.argmax(1)


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of a class, less the greatest other: (B, K), (B,) → (B,)."""
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(1)
    return of(logits, classes) - others


def of(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes[:, None])[:, 0]


def log_p(answers: Answers, classes: Tensor) -> Tensor:
    return of(answers.witness.log_softmax(1), classes)


def mirrored(answers: Answers, classes: Tensor) -> Tensor:
    return (log_p(answers, classes) + of(answers.mirrored.log_softmax(1), classes)) / 2


def witness_margin(answers: Answers, classes: Tensor) -> Tensor:
    return margin(answers.witness, classes)


def rank(answers: Answers, classes: Tensor) -> Tensor:
    above = (answers.witness > of(answers.witness, classes)[:, None]).sum(1)
    return log_p(answers, classes).clamp(-0.99 * LEAST_LOG_P) / LEAST_LOG_P - above


def lowest(scores: Tensor, rate: float) -> Tensor:
    """The least score that is let through: at most `rate` of exchangeable images fall below (split conformal)."""
    place = int(rate * (len(scores) + 1))
    return scores.sort().values[place - 1] if place else scores.new_tensor(-torch.inf)


def below(score: Score) -> Rule:
    """Flag where a score is below its conformal threshold."""

    def rule(clean: Answers, rate: float) -> Lacks:
        least = lowest(score(clean, predicted(clean)), rate)
        return lambda answers, classes: least - score(answers, classes)

    return rule


def none(clean: Answers, rate: float) -> Lacks:
    return lambda answers, classes: -torch.ones(len(classes)) + 0 * answers.witness.sum(1)


def by_confidence(clean: Answers, rate: float) -> Lacks:
    classes = predicted(clean)
    sure, scores = margin(clean.classifier, classes), log_p(clean, classes)
    edges = sure.quantile(torch.linspace(0, 1, BINS + 1)[1:-1])
    bins = torch.bucketize(sure, edges)
    least = torch.stack([lowest(scores[bins == place], rate) for place in range(BINS)])

    def lacks(answers: Answers, classes: Tensor) -> Tensor:
        place = torch.bucketize(margin(answers.classifier, classes).detach(), edges)
        return least[place] - log_p(answers, classes)

    return lacks


def both(clean: Answers, rate: float) -> Lacks:
    classes = predicted(clean)
    sure, scores = margin(clean.classifier, classes), log_p(clean, classes)
    ranks = torch.minimum(sure.argsort().argsort(), scores.argsort().argsort())
    place = int(lowest(ranks.float(), rate).clamp(min=0))
    surest, highest = sure.sort().values[place], scores.sort().values[place]

    def lacks(answers: Answers, classes: Tensor) -> Tensor:
        return torch.maximum(surest - margin(answers.classifier, classes), highest - log_p(answers, classes))

    return lacks


RULES: dict[str, Rule] = {
    "none": none,
    "log-p": below(log_p),
    "mirrored": below(mirrored),
    "margin": below(witness_margin),
    "rank": below(rank),
    "by-confidence": by_confidence,
    "both": both,
}

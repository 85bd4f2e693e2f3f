"""A second look at images that the first leaves undecided: learned masks → **a p-value that replaces the first one**.

    image, its label and the likeliest other label ─▶ an extremal mask for each ─▶ what classifier and witness make of
    the image with the masks kept and taken away ─▶ logistic regression ─▶ rank among undecided clean images

Only images whose p-value lies in a fixed band of ranks get it; inside the band they are ranked anew among the clean
calibration images of the band. So the result is again a split-conformal p-value, exact for every rate: the band of the
n + 1 images (calibration and new one) is a symmetric function of them (Vovk, Gammerman & Shafer 2005, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detector.classifier import Classifier
from detector.errors import CalibrationError
from detector.heatmaps import extremal
from detector.heatmaps.masks import blend
from detector.heatmaps.reference import cover

__all__ = ["HIGHEST_P", "SecondLook", "last_rank", "mask_features", "rivals_of", "shaped"]

HIGHEST_P = 0.25
"""Above this p-value an image is decided: clean."""
FIRST_RANK = 2  # more suspect than every clean image: decided
# Spelled out: the regression of a stored bundle belongs to these masks, whatever the defaults become.
MASKS: dict[str, Any] = {
    "areas": (0.1,),
    "objective": "preserve",
    "reference": "blur",
    "spread": 1 / 14,
    "binary": 0.0,
    "steps": 8,
    "rate": 1.0,
    "patience": 5,
    "tolerance": 0.01,
}
TINY = 1e-6
CHUNK = 128


def last_rank(calibration_images: int) -> int:
    """The highest rank (1: most suspect of calibration images and the new one) that is undecided."""
    return int(HIGHEST_P * (calibration_images + 1))


def rivals_of(labels: Tensor, recovered: Tensor) -> Tensor:
    """(B,): the likeliest label before an attack that is not the prediction.

    Args:
        labels: (B,) predictions.
        recovered: (B, n) labels, likeliest first, n >= 2.
    """
    other = recovered != labels[:, None]
    return recovered.gather(1, other.int().argmax(1, keepdim=True))[:, 0]


def mask_features(
    classifier: Classifier,
    witness: Classifier | None,
    images: Tensor,
    labels: Tensor,
    rivals: Tensor,
    attack_scores: Tensor,
) -> Tensor:
    """What the second look reads, (B, F) float32 on the CPU.

    In order: log of the attack score; for the classifier, then the witness: log P(label), log P(rival) and the largest
    probability of the image, of the image with only the label's mask, only the rival's, without the label's, without
    the rival's; overlap of the masks; roughness of each; kept logit less the image's, of each; deleted logit of each.

    Args:
        classifier: The classifier under guard.
        witness: The second classifier, if there is one.
        images: (B, 3, H, W) in [0,1].
        labels: (B,) predictions.
        rivals: (B,) other labels.
        attack_scores: (B,) of the first look.
    """
    pair = torch.stack([labels, rivals], 1).to(images.device)  # (B, 2)
    found = extremal(classifier, images, pair, **MASKS, chunk=CHUNK)
    masks = found.masks[:, :, 0]  # (B, 2, H, W)
    covers = cover(images, "blur")
    with torch.no_grad():
        kept = [blend(images, covers, mask) for mask in masks.unbind(1)]
        deleted = [blend(images, covers, 1 - mask) for mask in masks.unbind(1)]
        pictures = torch.cat([images, *kept, *deleted])  # (5 · B, 3, H, W)
        columns = [attack_scores.to(images.device).float().add(TINY).log()]
        for net in (classifier, witness) if witness is not None else (classifier,):
            fitted = pictures
            if net.input_size != tuple(images.shape[2:]):
                fitted = functional.interpolate(pictures, size=net.input_size, mode="bilinear", antialias=True)
            answers = torch.cat([net(some) for some in torch.split(fitted, CHUNK)]).log_softmax(1)
            for answer in answers.view(5, len(images), -1):
                columns += [*answer.gather(1, pair).unbind(1), answer.amax(1).exp()]
        columns.append(masks.prod(1).sum((1, 2)) / masks.amax(1).sum((1, 2)))
        columns += masks.diff(dim=3).abs().mean((2, 3)).unbind(1)
        columns += (found.kept[:, :, 0] - found.logits.gather(1, pair)).unbind(1)
        columns += found.deleted[:, :, 0].unbind(1)
    return torch.stack(columns, 1).float().cpu()


def shaped(features: Tensor) -> Tensor:
    """Features as the regression reads them, (B, F + 3) float64: the attack score stands there in four shapes.

    Args:
        features: (B, F) from `mask_features`.
    """
    log_score = features[:, :1].double()
    return torch.cat([features.double(), log_score.exp(), (log_score / 2).exp(), log_score.square()], 1)


@dataclass(frozen=True)
class SecondLook:
    """A logistic regression over `shaped` features, and how undecided clean images score in it."""

    mean: Tensor
    """(F,) of the shaped features it was fitted to."""
    scale: Tensor
    """(F,) their standard deviations."""
    weights: Tensor
    """(F,)."""
    bias: Tensor
    """(1,)."""
    scores: Tensor
    """(m,) float64, ascending: of the clean calibration images of ranks 2 … R - 1, where R is `last_rank`."""
    images: int
    """n, all clean calibration images."""

    def undecided(self, p_value: float) -> bool:
        """Whether an image of this first p-value gets a second look."""
        rank = round(p_value * (self.images + 1))
        return FIRST_RANK <= rank <= last_rank(self.images)

    def score(self, features: Tensor) -> Tensor:
        """(B,) float64 log-odds of an attack, from `mask_features` (B, F)."""
        scaled = (shaped(features) - self.mean.double()) / self.scale.double()
        return scaled @ self.weights.double() + self.bias.double()

    def p_value(self, scores: Tensor) -> Tensor:
        """(B,) float64: the p-value of undecided images by their second scores; ties count against the alarm.

        Raises:
            CalibrationError: A score is NaN.
        """
        if scores.isnan().any():
            raise CalibrationError("A score of the second look is NaN: it has no p-value.")
        below = torch.searchsorted(self.scores, scores.double().contiguous())
        return (FIRST_RANK + len(self.scores) - below).double() / (self.images + 1)

    def tensors(self) -> dict[str, Tensor]:
        """What a bundle stores."""
        names = ("mean", "scale", "weights", "bias", "scores")
        return {name: getattr(self, name) for name in names} | {"images": torch.tensor([self.images])}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SecondLook:
        """The inverse of `tensors`.

        Raises:
            CalibrationError: A tensor is missing, or they do not fit together.
        """
        try:
            images = int(tensors["images"])
            look = cls(
                **{name: tensors[name] for name in ("mean", "scale", "weights", "bias", "scores")}, images=images
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise CalibrationError(f"the second look is incomplete ({error}): train the bundle again.") from error
        if not look.mean.shape == look.scale.shape == look.weights.shape or look.mean.ndim != 1:
            raise CalibrationError("the second look's tensors do not fit together: train the bundle again.")
        if len(look.scores) != max(0, last_rank(images) - FIRST_RANK):
            raise CalibrationError(
                f"the second look has {len(look.scores)} calibration scores, expected "
                f"{max(0, last_rank(images) - FIRST_RANK)} for {images} clean images: train the bundle again."
            )
        return look

"""Which channels of a layer are enough for a decision, batched over images and classes.

    images (B, 3, H, W), classes (B, C), layer of D channels ─▶ B·C rows ─▶ climb ─▶ weights (B, C, D) in [0,1]

Channel attribution by optimisation: Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations
and Smooth Masks" (2019), section 4: an extremal mask over the channels of an intermediate layer instead of over pixels.
`channel_attribution` is its first-order form, in a single backward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.heatmaps.ascent import Climb, climb
from detector.heatmaps.channels import attribute_classes
from detector.heatmaps.heatmap import check_at_least, gradients_of, received, resolve_classes
from detector.heatmaps.mask_rows import check_share
from detector.heatmaps.masks import level_of, level_set

__all__ = ["ChannelMask", "channel_mask"]

SHARPNESS = 1.0
PATIENCE, TOLERANCE = 5, 0.01


@dataclass(frozen=True)
class ChannelMask:
    """The channels that are enough for each class."""

    logits: Tensor
    """(B, K), of the images as they are."""
    weights: Tensor
    """(B, C, D) in [0,1]; their mean is the share asked for."""
    top: Tensor
    """(B, C, n): the heaviest channels, best first."""
    activations: Tensor
    """(B, C, n, h, w): what those channels answer to the image."""
    kept: Tensor
    """(B, C): the class's logit with the channels weighted."""
    steps: Tensor
    """(B, C): steps taken."""


def channel_mask(
    classifier: Classifier,
    images: Tensor,
    layer: str,
    classes: Tensor | None = None,
    *,
    share: float = 0.1,
    top: int = 5,
    steps: int = 15,
    rate: float = 1.0,
    chunk: int = 64,
) -> ChannelMask:
    """Weights of a fixed mean over a layer's channels that keep most of the class's logit.

    A channel's answer is multiplied by its weight, so 0 silences it. Weights start from activation × gradient; each
    step is one forward, and one backward that reaches down to `layer` only.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        layer: Name out of `classifier.layers`.
        classes: (B, C), or None for the predicted class.
        share: Mean weight, in (0, 1): the share of the channels that is kept.
        top: Channels listed in the result; fewer where the layer has fewer.
        steps: Most steps.
        rate: Of Adam, in units of a weight's logit.
        chunk: Rows (image, class) at once; bounds memory.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
        LayerNotFoundError: No layer of that name; lists near names.
        NoGradientError: The classifier cannot be differentiated.
        NonFiniteLogitsError: The classifier answered NaN or infinity.
    """
    check_share("share", share)
    for setting, value in (("top", top), ("steps", steps), ("chunk", chunk)):
        check_at_least(setting, value, 1)
    images = received(classifier, images)
    with gradients_of(classifier):
        logits, found = classifier.activations(images, [layer])
        labels = resolve_classes(classes, logits)  # (B, C)
        start = attribute_classes(logits, found[layer], labels)[1].flatten(0, 1)  # (B·C, D)
        logits, activation = logits.detach(), found[layer].detach()
        start = start / start.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
        image_of = torch.arange(len(images), device=images.device)[:, None].expand_as(labels).flatten()
        parts = [
            _optimise(
                classifier, layer, images[image_of[rows]], labels.flatten()[rows], start[rows], share, steps, rate
            )
            for rows in torch.split(torch.arange(len(start), device=images.device), chunk)
        ]
    weights, kept, taken = (torch.cat(part) for part in zip(*parts, strict=True))
    weights = weights.view(*labels.shape, weights.shape[1])
    order = weights.topk(min(top, weights.shape[2]), dim=2).indices  # (B, C, n)
    seen = activation[torch.arange(len(images), device=images.device)[:, None, None], order]  # (B, C, n, h, w)
    return ChannelMask(logits, weights, order, seen, kept.view_as(labels), taken.view_as(labels))


def _optimise(
    classifier: Classifier,
    layer: str,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    share: float,
    steps: int,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (n, D), logit kept (n,) and steps taken (n,) of n rows."""
    shares = torch.full((len(images),), share, device=images.device)

    def logit(weights: Tensor, rows: Tensor) -> Tensor:
        changed = classifier.changed(images[rows], layer, lambda answer: answer * weights[:, :, None, None])
        return changed.gather(1, labels[rows, None])[:, 0]

    def ascent(parameters: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = parameters.requires_grad_()
            weights = level_set(leaf, level_of(leaf, shares[rows], SHARPNESS), SHARPNESS)
            value = logit(weights, rows)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        edge = weights.detach() * (1 - weights.detach())  # the level follows the parameters: its share leaves
        return value.detach(), gradient - edge * gradient.sum(1, True) / edge.sum(1, True).clamp(min=1e-12)

    best, taken = climb(start, ascent, Climb(steps, rate, PATIENCE, TOLERANCE))
    weights = level_set(best, level_of(best, shares, SHARPNESS), SHARPNESS)
    with torch.no_grad():
        return weights, logit(weights, torch.arange(len(images), device=images.device)), taken

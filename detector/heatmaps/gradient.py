"""Input-gradient heatmaps: images and classes flow in, one (H, W) map per class comes out.

gradient: Simonyan, Vedaldi & Zisserman, "Deep Inside Convolutional Networks" (2014), section 3.
gradient × input: Shrikumar et al., "Learning Important Features Through Propagating Activation Differences" (2017).
integrated gradients: Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks" (2017), section 3.
SmoothGrad: Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), section 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import HeatmapError
from detector.heatmaps.heatmap import (
    Heatmap,
    as_leaf,
    check_at_least,
    gradients_of,
    received,
    resolve_classes,
)

__all__ = ["gradient", "gradient_times_input", "input_gradients", "integrated_gradients", "smoothgrad"]


def input_gradients(classifier: Classifier, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradient of each class's logit by the pixels: one forward, C backwards.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the predicted class.

    Returns:
        Logits (B, K) and gradients (B, C, 3, H, W), signed.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: `classes` of the wrong shape or out of range.
        NoGradientError: The classifier cannot be differentiated.
    """
    return _gradients(classifier, received(classifier, images), classes)


def _gradients(classifier: Classifier, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of images of our own, which noise or a baseline may have taken out of [0, 1]."""
    with gradients_of(classifier):
        pixels = as_leaf(images).requires_grad_()
        logits = classifier(pixels)
        targets = logits.gather(1, resolve_classes(classes, logits)).sum(0)  # (C,)
        gradients = [
            torch.autograd.grad(target, pixels, retain_graph=index + 1 < len(targets))[0]
            for index, target in enumerate(targets)
        ]
    return logits.detach(), torch.stack(gradients, 1)


def gradient(classifier: Classifier, images: Tensor, classes: Tensor | None = None) -> Heatmap:
    """Largest |gradient| over the colour channels (Simonyan et al. 2014, section 3.1); maps (B, C, H, W) >= 0."""
    logits, gradients = input_gradients(classifier, images, classes)
    return Heatmap(logits, gradients.abs().amax(2))


def gradient_times_input(classifier: Classifier, images: Tensor, classes: Tensor | None = None) -> Heatmap:
    """Gradient × pixel summed over the colour channels (Shrikumar et al. 2017); maps (B, C, H, W), signed.

    For a linear classifier a map sums to its class's logit less the bias.
    """
    logits, gradients = input_gradients(classifier, images, classes)
    return Heatmap(logits, (gradients * images.detach()[:, None]).sum(2))


def integrated_gradients(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    steps: int = 16,
    baseline: float | Tensor = 0.0,
) -> Heatmap:
    """Gradients averaged on the straight way from a baseline, times the way; maps (B, C, H, W), signed.

    A map sums to logit(image) - logit(baseline), up to the error of the quadrature (Gauss-Legendre).

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the class predicted on the image itself.
        steps: Points on the way, each one forward and C backwards.
        baseline: A grey level in [0,1], or an image or images that broadcast to `images`.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
        NoGradientError: The classifier cannot be differentiated.
    """
    check_at_least("steps", steps, 1)
    images = received(classifier, images)
    way = images - _baseline(baseline, images)
    logits, classes = _logits_and_classes(classifier, images, classes)
    points, weights = np.polynomial.legendre.leggauss(steps)  # on -1 … 1
    total = torch.zeros((), device=images.device)
    for point, weight in zip(points, weights, strict=True):
        _, gradients = _gradients(classifier, images + way * float(point - 1) / 2, classes)
        total = total + gradients * float(weight / 2)
    return Heatmap(logits, (total * way[:, None]).sum(2))


def smoothgrad(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> Heatmap:
    """Gradients averaged over noisy copies, then the largest size over the colours; maps (B, C, H, W) >= 0.

    Every image meets the same `samples` noise fields, so a map depends on nothing but its image and the seed.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the class predicted on the image without noise.
        samples: Noisy copies, each one forward and C backwards.
        noise: Standard deviation of the Gaussian noise, in [0,1] units (the paper: 0.1 to 0.2).
        seed: Of the noise.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
        NoGradientError: The classifier cannot be differentiated.
    """
    check_at_least("samples", samples, 1)
    if not 0 < noise <= 1:
        raise HeatmapError(f"noise: expected a standard deviation in (0, 1], got {noise!r}")
    images = received(classifier, images)
    logits, classes = _logits_and_classes(classifier, images, classes)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    total = torch.zeros((), device=images.device)
    for _ in range(samples):
        field = torch.randn(images.shape[1:], generator=generator).to(images)
        total = total + _gradients(classifier, images + noise * field, classes)[1]
    return Heatmap(logits, (total / samples).abs().amax(2))


def _logits_and_classes(classifier: Classifier, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    with gradients_of(classifier), torch.no_grad():
        logits = classifier(images)
        return logits, resolve_classes(classes, logits)


def _baseline(baseline: float | Tensor, images: Tensor) -> Tensor:
    if isinstance(baseline, Tensor):
        try:
            return as_leaf(baseline).to(images).expand_as(images)
        except RuntimeError:
            raise HeatmapError(
                f"baseline: expected a shape that broadcasts to {tuple(images.shape)}, got {tuple(baseline.shape)}"
            ) from None
    if not 0 <= baseline <= 1:
        raise HeatmapError(f"baseline: expected a grey level in [0, 1], got {baseline!r}")
    return torch.full_like(images, baseline)

"""Class activation maps at one layer: images and classes flow in, one (h, w) map per class comes out.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (2017), section 3.
On a network that ends in average pooling and a linear head this is the class activation map of Zhou et al.,
"Learning Deep Features for Discriminative Localization" (2016), section 2, over the number of positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.heatmaps.heatmap import Heatmap, default_layer, gradients_of, received, resolve_classes

__all__ = ["cam"]


def cam(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    layer: str | None = None,
    relu: bool = True,
) -> Heatmap:
    """Grad-CAM: channels weighted by their mean gradient; maps (B, C, h, w) of the layer's size.

    Without `relu`, on a network that ends in average pooling and a linear head, a map sums to its logit less the bias.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the predicted class. One forward; C backwards that reach down to `layer` only.
        layer: Name out of `classifier.layers`; None for the deepest (`classifier.deepest`).
        relu: Keep only what speaks for the class (the paper's equation 2); False keeps signs.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: `classes` of the wrong shape or out of range.
        LayerNotFoundError: No layer of that name, or none at all.
        NoGradientError: The classifier cannot be differentiated.
    """
    images, layer = received(classifier, images), default_layer(classifier, layer)
    maps = []
    with gradients_of(classifier):
        logits, activations = classifier.activations(images, [layer])
        activation = activations[layer]  # (B, D, h, w)
        targets = logits.gather(1, resolve_classes(classes, logits)).sum(0)  # (C,)
        for index, target in enumerate(targets):
            (gradient,) = torch.autograd.grad(target, activation, retain_graph=index + 1 < len(targets))
            weights = gradient.mean((2, 3), keepdim=True, dtype=torch.float32)  # (B, D, 1, 1)
            maps.append((activation.detach() * weights).sum(1))
    stacked = torch.stack(maps, 1)
    return Heatmap(logits.detach(), stacked.relu() if relu else stacked)

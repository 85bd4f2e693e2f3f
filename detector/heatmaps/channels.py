"""Channel attribution: which channels, at several depths, carry the decision.

Images flow in; for each layer come out activation × gradient summed over space, gradient norms and mean activations.
Layers are read as maps (B, D, h, w) whatever their layout: a channel of a transformer is one number of every token.
The gradient is that of the top1 - top2 margin: ONE forward and ONE backward for any number of layers. Activation ×
gradient is the first-order form (Shrikumar et al. 2017, section 3) of the channel attribution of Fong, Patrick &
Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks" (2019), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import HeatmapError
from detector.heatmaps.heatmap import gradients_of, received, resolve_classes

__all__ = [
    "ChannelAttribution",
    "ClassAttribution",
    "LayerAttribution",
    "LayerAttributionMap",
    "attribute_classes",
    "attribute_margin",
    "channel_attribution",
    "class_activation_gradients",
    "spread",
]


@dataclass(frozen=True)
class LayerAttribution:
    """One layer's share in the margin, float32. D channels of h × w; signs and magnitudes kept."""

    attribution: Tensor
    """(B, D): activation × gradient, summed over space."""
    weights: Tensor
    """(B, D): mean gradient over space."""
    gradient_norm: Tensor
    """(B, D): L2 norm of the gradient over space."""
    activation: Tensor
    """(B, D): mean activation over space."""


@dataclass(frozen=True)
class LayerAttributionMap(LayerAttribution):
    """The same, and where in the layer's maps it lies."""

    spatial: Tensor
    """(B, h, w): activation × gradient, summed over channels."""


@dataclass(frozen=True)
class ChannelAttribution:
    """What `channel_attribution` returns."""

    logits: Tensor
    """(B, K)."""
    layers: dict[str, LayerAttributionMap]
    """In the order asked for."""


@dataclass(frozen=True)
class ClassAttribution:
    """What `class_activation_gradients` returns: one layer's share in each class's logit, float32."""

    logits: Tensor
    """(B, K)."""
    maps: Tensor
    """(B, C, h, w): activation × gradient, summed over channels."""
    channels: Tensor
    """(B, C, D): activation × gradient, summed over space."""


def channel_attribution(
    classifier: Classifier, images: Tensor, layers: Sequence[str], *, pair: Tensor | None = None
) -> ChannelAttribution:
    """Attribute the margin between two classes to the channels of `layers`: one forward, one backward.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        layers: Names out of `classifier.layers`, each once.
        pair: (B, 2), the classes whose logits are subtracted, first minus second; None for each image's top two.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: No layers, or `pair` of the wrong shape or out of range.
        LayerNotFoundError: No layer of that name.
        NoGradientError: The classifier cannot be differentiated.
    """
    if not layers or isinstance(layers, str):
        raise HeatmapError(f"layers: expected at least one layer name in a list, got {layers!r}")
    images = received(classifier, images)
    with gradients_of(classifier):
        logits, activations = classifier.activations(images, layers)
        gradients = _margin_gradients(logits, {name: activations[name] for name in layers}, pair)
    return ChannelAttribution(
        logits.detach(),
        {
            name: LayerAttributionMap(**vars(_pool(activation, gradient)), spatial=(activation * gradient).sum(1))
            for name, (activation, gradient) in gradients.items()
        },
    )


def class_activation_gradients(
    classifier: Classifier, images: Tensor, layer: str, classes: Tensor | None = None
) -> ClassAttribution:
    """Activation × gradient at one layer for each of C classes, without ReLU and without scaling.

    One forward; C backwards that reach down to `layer` only.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        layer: Name out of `classifier.layers`.
        classes: (B, C), or None for the predicted class.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: `classes` of the wrong shape or out of range.
        LayerNotFoundError: No layer of that name.
        NoGradientError: The classifier cannot be differentiated.
    """
    images = received(classifier, images)
    with gradients_of(classifier):
        logits, activations = classifier.activations(images, [layer])
        maps, channels = attribute_classes(logits, activations[layer], classes)
    return ClassAttribution(logits.detach(), maps, channels)


def attribute_margin(
    logits: Tensor,
    activations: Mapping[str, Tensor],
    pair: Tensor | None = None,
    *,
    retain_graph: bool = False,
    attached: bool = False,
) -> dict[str, LayerAttribution]:
    """`channel_attribution` for a forward pass that has been made: one backward.

    Args:
        logits: (B, K), attached to the graph.
        activations: By layer, (B, D, h, w), out of the same graph.
        pair: As in `channel_attribution`.
        retain_graph: Leave the graph for another backward.
        attached: Keep the attribution itself on the graph, for who asks how it changes with the image.
    """
    gradients = _margin_gradients(logits, activations, pair, retain_graph=retain_graph, attached=attached)
    return {name: _pool(activation, gradient) for name, (activation, gradient) in gradients.items()}


def attribute_classes(
    logits: Tensor, activation: Tensor, classes: Tensor | None = None, *, retain_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """`class_activation_gradients` for a forward pass that has been made: C backwards.

    Returns:
        Maps (B, C, h, w) and channels (B, C, D).
    """
    targets = logits.gather(1, resolve_classes(classes, logits)).sum(0)  # (C,)
    maps, channels = [], []
    for index, target in enumerate(targets):
        retain = retain_graph or index + 1 < len(targets)
        (gradient,) = torch.autograd.grad(target, activation, retain_graph=retain)
        product = activation.detach() * gradient  # (B, D, h, w)
        maps.append(product.sum(1, dtype=torch.float32))
        channels.append(product.sum((2, 3), dtype=torch.float32))
    return torch.stack(maps, 1), torch.stack(channels, 1)


def _margin_gradients(
    logits: Tensor,
    activations: Mapping[str, Tensor],
    pair: Tensor | None,
    *,
    retain_graph: bool = False,
    attached: bool = False,
) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer, the activation and the margin's gradient, (B, D, h, w) each."""
    classes = _margin_classes(logits, pair)  # (B, 2)
    first, second = logits.gather(1, classes).sum(0)
    gradients = torch.autograd.grad(
        first - second, list(activations.values()), retain_graph=retain_graph or attached, create_graph=attached
    )
    return {
        name: (activation if attached else activation.detach(), gradient)
        for (name, activation), gradient in zip(activations.items(), gradients, strict=True)
    }


def _margin_classes(logits: Tensor, pair: Tensor | None) -> Tensor:
    if pair is None:
        return logits.detach().topk(2, dim=1).indices
    if not isinstance(pair, Tensor) or pair.ndim != 2 or pair.shape[1] != 2:
        came = tuple(pair.shape) if isinstance(pair, Tensor) else f"a {type(pair).__name__}"
        raise HeatmapError(f"pair: expected shape (B, 2), got {came}")
    return resolve_classes(pair, logits)


def _pool(activation: Tensor, gradient: Tensor) -> LayerAttribution:
    product = activation * gradient  # (B, D, h, w)
    return LayerAttribution(
        attribution=product.sum((2, 3), dtype=torch.float32),
        weights=gradient.mean((2, 3), dtype=torch.float32),
        gradient_norm=torch.linalg.vector_norm(gradient, dim=(2, 3), dtype=torch.float32),
        activation=activation.mean((2, 3), dtype=torch.float32),
    )


def spread(activation: Tensor) -> Tensor:
    """(B, D), float32: how unevenly each channel of (B, D, h, w) is active, the standard deviation over space."""
    if not len(activation):  # torch warns of a deviation of nothing
        return activation.new_empty(activation.shape[:2], dtype=torch.float32)
    return activation.float().flatten(2).std(2, correction=0)

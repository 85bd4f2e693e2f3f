"""A detector and one image in; **`Explanation`** out: the verdict, a map a method and class, the channels that matter.

Numbers only: nothing here scales, colours or draws. A method that cannot be computed says why and ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.classifier import Classifier
from detector.detector import Detector, Verdict
from detector.errors import HeatwardError
from detector.heatmaps import METHODS, Heatmap, MaskHeatmap, channel_mask
from training.evaluation.examples import pixels

__all__ = [
    "CHANNEL_SHARE",
    "Channel",
    "ChannelResult",
    "Explanation",
    "Mask",
    "MethodResult",
    "Target",
    "check_layer",
    "explain",
]

Map = NDArray[np.float32]
SHOWN_CHANNELS = 6
CHANNEL_SHARE = 0.1


@dataclass(frozen=True)
class Target:
    """A class whose evidence is shown."""

    role: str
    """"predicted", "recovered" or "asked for"."""
    label: int
    name: str
    logit: float


@dataclass(frozen=True)
class Mask:
    """The part of the image that a perturbation method chose for one class."""

    shown: Map  # (H, W) in [0, 1]
    kept: float
    """Logit of the class when only that part is kept."""
    deleted: float
    """Logit of the class when that part is replaced."""


@dataclass(frozen=True)
class MethodResult:
    """One method on one image; maps and masks in the order of the targets."""

    name: str
    seconds: float
    maps: tuple[Map, ...] = ()  # (h, w) each, unscaled
    masks: tuple[Mask, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Channel:
    """One channel of a layer."""

    index: int
    weight: float
    activation: Map  # (h, w)


@dataclass(frozen=True)
class ChannelResult:
    """The channels of one layer that carry each target, best first."""

    layer: str
    count: int = 0
    """Channels the layer has."""
    seconds: float = 0.0
    kept: tuple[float, ...] = ()
    """Logit of each target with its channels weighted."""
    open: tuple[int, ...] = ()
    """Channels that weigh more than a half, for each target."""
    top: tuple[tuple[Channel, ...], ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Explanation:
    """All that is shown of one image."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3), as the classifier sees it
    classes: tuple[str, ...]
    verdict: Verdict
    calibration_images: int
    targets: tuple[Target, ...]
    methods: tuple[MethodResult, ...]
    channels: ChannelResult


def check_layer(classifier: Classifier, layer: str) -> None:
    """Raises LayerNotFoundError, listing near names, unless the classifier shows that layer."""
    with torch.no_grad():
        classifier.activations(torch.full((1, 3, *classifier.input_size), 0.5, device=classifier.device), [layer])


def explain(
    detector: Detector,
    image: Tensor,
    *,
    name: str,
    methods: Sequence[str],
    label: int | None = None,
    layer: str | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Explanation:
    """Judge one image and compute every map.

    Args:
        detector: Judges, and holds the classifier.
        image: (3, H, W) in [0, 1], from `classifier.prepare`.
        name: What to call the image.
        methods: Names out of `detector.heatmaps.METHODS`.
        label: A class to show beside the predicted one, instead of the recovered label.
        layer: Of cam and of the channels; None for the deepest, and for the layer of the verdict's own heatmap.
        advance: Told of every step once it is done: the verdict, each method, the channels.

    Raises:
        NonFiniteLogitsError: The classifier answered NaN or infinity.
    """
    classifier = detector.classifier
    images = image[None].to(classifier.device)
    (verdict,) = detector.detect(images)
    targets = _targets(classifier, images, verdict, label)
    classes = torch.tensor([[target.label for target in targets]], device=classifier.device)  # (1, C)
    advance(1)
    results = []
    for method in methods:
        results.append(_method(classifier, images, classes, method, layer))
        advance(1)
    channels = _channels(classifier, images, classes, layer or detector.extractor.map_layer)
    advance(1)
    return Explanation(
        name=name,
        image=pixels((image * 255).round().to(torch.uint8)),
        classes=classifier.classes,
        verdict=verdict,
        calibration_images=detector.ranked_among(verdict.label),
        targets=targets,
        methods=tuple(results),
        channels=channels,
    )


def _targets(classifier: Classifier, images: Tensor, verdict: Verdict, label: int | None) -> tuple[Target, ...]:
    roles = {verdict.label: "predicted"}
    if label is not None:
        roles.setdefault(label, "asked for")
    elif verdict.recovered:
        roles.setdefault(verdict.recovered[0][0], "recovered")
    with torch.no_grad():
        logits = classifier(images)[0].cpu()
    return tuple(Target(role, at, classifier.classes[at], float(logits[at])) for at, role in roles.items())


def _method(classifier: Classifier, images: Tensor, classes: Tensor, name: str, layer: str | None) -> MethodResult:
    settings = {"layer": layer} if name == "cam" and layer else {}
    started = time.perf_counter()
    try:
        heatmap = METHODS[name](classifier, images, classes, **settings)
    except (HeatwardError, RuntimeError) as error:  # RuntimeError: torch's, memory among them
        return MethodResult(name, time.perf_counter() - started, failure=str(error))
    maps = tuple(_numpy(heatmap.maps[0]))
    return MethodResult(name, time.perf_counter() - started, maps, _masks(heatmap))


def _masks(heatmap: Heatmap) -> tuple[Mask, ...]:
    """Of the first area, where a method has several."""
    if not isinstance(heatmap, MaskHeatmap):
        return ()
    shown = _numpy(heatmap.masks[0, :, 0])  # (C, H, W)
    kept, deleted = heatmap.kept[0, :, 0].tolist(), heatmap.deleted[0, :, 0].tolist()
    return tuple(Mask(*each) for each in zip(shown, kept, deleted, strict=True))


def _channels(classifier: Classifier, images: Tensor, classes: Tensor, layer: str) -> ChannelResult:
    started = time.perf_counter()
    try:
        found = channel_mask(classifier, images, layer, classes, share=CHANNEL_SHARE, top=SHOWN_CHANNELS)
    except (HeatwardError, RuntimeError) as error:
        return ChannelResult(layer, failure=str(error))
    weights = found.weights.gather(2, found.top)[0].tolist()  # (C, n)
    activations = _numpy(found.activations[0])  # (C, n, h, w)
    top = tuple(
        tuple(Channel(*each) for each in zip(*of_class, strict=True))
        for of_class in zip(found.top[0].tolist(), weights, activations, strict=True)
    )
    return ChannelResult(
        layer,
        found.weights.shape[2],
        time.perf_counter() - started,
        tuple(found.kept[0].tolist()),
        tuple((found.weights[0] > 0.5).sum(1).tolist()),
        top,
    )


def _numpy(values: Tensor) -> Map:
    return values.detach().float().cpu().numpy()

"""Detectors in which one adversarial image is sure to exist: a detector and an image in, such a detector out.

Zimmermann, Brendel, Tramèr & Carlini 2022, "Increasing Confidence in Adversarial Robustness Evaluations": an attack
that misses what was planted says nothing by finding nothing. Two logits of the classifier's last layer are told apart
by a discriminator on its features: it answers another class at one point of the budget's surface, and the image's own
class at the image and at random points inside; all other classes are out. The threshold then stands just above the
planted point's score. *Inverted*, the detector flags what looks clean, so that no attack passes by looking clean alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import DataError
from detector.evidence import Evidence
from detector.scoring.calibration import Calibration
from detector.scoring.network import HeatmapNetwork, NetworkOutput, score
from training.redteam.oracles import to_8_bits
from training.redteam.values import Budget

__all__ = ["Planted", "last_layer", "plant"]

INSIDE = 256
"""Points inside the budget that keep the image's class."""
DEPTH = 0.9
"""How far out they lie, at most."""
GAIN = 4.0
"""Difference of the two logits at the planted point."""
OUT = 30.0
"""By so much all other classes' logits are lowered."""
RIDGE = 1e-3
TRIES = 20
SLACK = 0.1
"""Of the clean scores' deviation: how far the threshold lies above the planted point's score."""


@dataclass(frozen=True)
class Planted:
    """A detector, and what was planted in it."""

    detector: Detector
    image: Tensor  # (3, H, W), the adversarial one


def last_layer(classifier: Classifier) -> str:
    """The name of the linear layer that answers the logits; empty where there is none."""
    named = [(name, module) for name, module in classifier.module.named_modules() if isinstance(module, nn.Linear)]
    if not named or named[-1][1].out_features != classifier.num_classes or classifier.module.head.probabilities:
        return ""
    return str(named[-1][0])


def plant(detector: Detector, image: Tensor, budget: Budget, rate: float, seed: int, *, inverted: bool) -> Planted:
    """Plant an adversarial image.

    Args:
        detector: Stays as it is.
        image: (3, H, W), rightly classified.
        budget: L∞.
        rate: Where the planted image is not flagged, and what looks worse is.
        seed: Decides the point.
        inverted: Whether what looks clean is flagged.

    Raises:
        DataError: No point was found that the classifier's features tell from those inside.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = copy.deepcopy(detector.classifier)
    layer = classifier.module.get_submodule(last_layer(classifier))
    device = classifier.device
    with torch.no_grad():
        origin = int(classifier(image[None].to(device)).argmax(1))
    signs = 2 * torch.rand(INSIDE, *image.shape, generator=generator) - 1
    inside = torch.cat([image[None], to_8_bits(image + DEPTH * budget.eps * signs)])
    for _ in range(TRIES):
        corner = torch.randint(0, 2, image.shape, generator=generator) * 2 - 1
        planted = to_8_bits(image + budget.eps * corner)
        split = _discriminator(_features(classifier, layer, torch.cat([planted[None], inside])))
        if split is not None:
            break
    else:
        raise DataError(f"nothing could be planted: {TRIES} points look to the classifier like those inside the budget")
    scale = _scale(classifier, layer, image)
    _answer(layer, origin, (origin + 1) % classifier.num_classes, scale, *split)
    return Planted(_around(detector, classifier, planted, rate, inverted), planted)


def _features(classifier: Classifier, layer: nn.Module, images: Tensor) -> Tensor:
    """(n, F) float64: what the last layer reads."""
    kept: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0].detach()))
    try:
        with torch.no_grad():
            for batch in torch.split(images, 64):
                classifier(batch.to(classifier.device))
    finally:
        hook.remove()
    return torch.cat([each.flatten(1) for each in kept]).double().cpu()


def _discriminator(features: Tensor) -> tuple[Tensor, float] | None:
    """Fisher's: weight (F,) and bias, above 0 at the first point alone; None where nothing tells it apart."""
    planted, inside = features[0], features[1:]
    mean = inside.mean(0)
    spread = torch.cov(inside.T) if inside.shape[1] > 1 else inside.var(0)[None, None]
    ridge = RIDGE * spread.diagonal().mean() + 1e-12
    weight = torch.linalg.solve(spread + ridge * torch.eye(len(mean), dtype=torch.float64), planted - mean)
    at, most = float(weight @ planted), float((inside @ weight).max())
    if at <= most:
        return None
    gain = 2 * GAIN / (at - most)
    return gain * weight, -gain * (at + most) / 2


def _scale(classifier: Classifier, layer: nn.Module, image: Tensor) -> float:
    """By how much a logit grows with what the layer answers: nets divide by a temperature behind it."""

    def move(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([output[:, :1] + 1, output[:, 1:]], 1)

    with torch.no_grad():
        before = classifier(image[None].to(classifier.device))[0, 0]
        hook = layer.register_forward_hook(move)
        try:
            after = classifier(image[None].to(classifier.device))[0, 0]
        finally:
            hook.remove()
    return max(float(after - before), 1e-6)


def _answer(layer: nn.Module, origin: int, other: int, scale: float, weight: Tensor, bias: float) -> None:
    """Have the last layer answer `other` where the discriminator is above 0, else `origin`."""
    if not isinstance(layer, nn.Linear):
        raise DataError(f"the last layer is a {type(layer).__name__}, and nothing can be planted in it")
    with torch.no_grad():
        biases = torch.zeros(layer.out_features).to(layer.weight) if layer.bias is None else layer.bias.clone()
        out = torch.full_like(biases, OUT / scale)
        out[[origin, other]] = 0
        layer.weight[other] = layer.weight[origin] + weight.to(layer.weight) / scale
        biases[other] = biases[origin] + bias / scale
        layer.bias = nn.Parameter(biases - out, requires_grad=False)


def _around(detector: Detector, classifier: Classifier, planted: Tensor, rate: float, inverted: bool) -> Detector:
    """The detector around another classifier, with the threshold just above the planted image's score."""
    other, extractor = copy.copy(detector), copy.copy(detector.extractor)
    extractor.classifier = classifier
    extractor.map_from = classifier if detector.extractor.map_from is detector.classifier else extractor.map_from
    other.classifier, other.extractor = classifier, extractor
    other.groups, other.tails, other.cascade, other.reliability = None, (), None, None
    other.group_names = ("",)
    if inverted:
        other.networks = tuple(_inverted(detector.networks))
    scores, _ = score(other.networks, extractor(planted[None].to(classifier.device)))
    clean = detector.calibration.scores
    slack = SLACK * float(clean.std()) + 1e-6
    shift = float(scores[0]) + slack - detector.calibration.threshold(rate)
    other.calibration = Calibration.fit(clean + shift)
    return other


class _Inverted(nn.Module):
    """A heatmap network that says *clean* where another one says *attacked*."""

    def __init__(self, network: HeatmapNetwork, novelty: nn.Module) -> None:
        super().__init__()
        self.network, self.novelty, self.floor = network, novelty, None

    def forward(self, evidence: Evidence) -> NetworkOutput:
        found = self.network(evidence)
        clean, attacked = found.family_logits[:, :1], found.family_logits[:, 1:].logsumexp(1, keepdim=True)
        return NetworkOutput(torch.cat([attacked, clean], 1), found.origin_logits)


def _inverted(networks: tuple[HeatmapNetwork, ...]) -> list[HeatmapNetwork]:
    novelty = copy.copy(networks[0].novelty)
    novelty.settings = novelty.settings.model_copy(update={"novelty_weight": 0.0})
    return [_Inverted(network, novelty).eval() for network in networks]  # type: ignore[misc]

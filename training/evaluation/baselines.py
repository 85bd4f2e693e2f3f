"""What the detector is measured against: images or logits in, attack scores and recovered labels out.

    runner-up    no training: the smaller the margin of the top two logits, the more suspicious; the origin label is
                 the second-best class
    image        a CNN of the heatmap network's size on the image alone
    gradients    the same CNN on raw gradient and gradient x input maps of every candidate class

Both CNNs are trained by baseline_fit.py from the images and labels that the detector learns from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.classifier import Classifier
from detector.heatmaps.gradient import input_gradients

__all__ = [
    "RECOVERED",
    "Answers",
    "Baseline",
    "Cnn",
    "Sight",
    "gradient_maps",
    "image_only",
    "look",
    "runner_up",
]

RECOVERED = 6  # origin labels named, where there are as many candidates: five besides the prediction
MAX_MAP_SIDE = 64  # gradient maps of larger images are averaged down to this side


@dataclass(frozen=True)
class Answers:
    """What a detector says of n images."""

    score: Tensor  # (n,) float32, higher = more likely attacked
    recovered: Tensor  # (n, R) int64, the likeliest origin labels, best first, the prediction where it is likely


@dataclass(frozen=True)
class Sight:
    """What a CNN looks at: (channels (n, D, h, w), the class that each origin output stands for (n, C))."""

    name: str
    channels: int
    origins: int
    see: Callable[[Tensor], tuple[Tensor, Tensor]]  # images (n, 3, H, W) in [0, 1] on the classifier's device


def runner_up(logits: Tensor) -> Answers:
    """The untrained baseline: (n, K) logits to minus the top-two margin, and the classes after the predicted one."""
    top = logits.float().topk(min(RECOVERED + 1, logits.shape[1]), dim=1)
    recovered = torch.cat([top.indices[:, 1:], top.indices[:, :1]], dim=1)[:, :RECOVERED]
    return Answers(top.values[:, 1] - top.values[:, 0], recovered)


def image_only(classifier: Classifier) -> Sight:
    """The image itself, centred."""
    everything = torch.arange(classifier.num_classes, device=classifier.device)

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        return (images - 0.5) / 0.25, everything.expand(len(images), -1)

    return Sight("image", 3, classifier.num_classes, see)


def gradient_maps(classifier: Classifier, candidates: int = 10) -> Sight:
    """Raw gradient and gradient x input maps of the top `candidates` classes, best first: 2 channels a class."""
    count = min(candidates, classifier.num_classes)

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        classes = classifier(images).topk(count, dim=1).indices  # (n, C)
        _, gradients = input_gradients(classifier, images, classes)  # (n, C, 3, H, W)
        stacked = torch.cat([gradients.abs().amax(2), (gradients * images[:, None]).sum(2)], dim=1)  # (n, 2 C, H, W)
        if max(stacked.shape[-2:]) > MAX_MAP_SIDE:
            stacked = functional.adaptive_avg_pool2d(stacked, MAX_MAP_SIDE)
        return stacked, classes

    return Sight("gradients", 2 * count, count, see)


class Cnn(nn.Module):
    """A plain CNN: three stages of two 3x3 convolutions, average pooling, a family head and an origin head."""

    scale: Tensor

    def __init__(self, channels: int, families: int, origins: int, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))  # inputs are divided by their typical size, once for all
        layers: list[nn.Module] = []
        before = channels
        for stage, size in enumerate((width, 2 * width, 4 * width)):
            for stride in (1 if stage == 0 else 2, 1):
                layers += [nn.Conv2d(before, size, 3, stride, 1, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
                before = size
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.family = nn.Linear(before, families + 1)
        self.origin = nn.Linear(before, origins)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D, h, w) to family logits (n, 1 + families) and origin logits (n, C)."""
        features = self.body(inputs / self.scale)
        return self.family(features), self.origin(features)

    @classmethod
    def of_size(cls, parameters: int, channels: int, families: int, origins: int) -> Cnn:
        """The one whose number of parameters comes nearest to `parameters`."""

        def distance(width: int) -> float:
            stages = 9 * (channels * width + width * width * (1 + 2 + 4 + 8 + 16))
            return abs(stages + 14 * 2 * width + (4 * width + 1) * (families + 1 + origins) - parameters)

        top = max(4, math.isqrt(parameters // 200))
        return cls(channels, families, origins, min(range(4, top + 1), key=distance))


@dataclass(frozen=True)
class Baseline:
    """A trained CNN with its way of looking."""

    sight: Sight
    network: Cnn

    @torch.no_grad()
    def answer(self, images: Tensor) -> Answers:
        """(n, 3, H, W) uint8 or [0, 1] images to scores and labels."""
        inputs, classes = look(self.sight, images, next(self.network.parameters()).device)
        family, origin = self.network.eval()(inputs)
        order = origin.topk(min(RECOVERED, origin.shape[1]), dim=1).indices
        return Answers(-functional.log_softmax(family, dim=1)[:, 0].cpu(), classes.gather(1, order).cpu())


def look(sight: Sight, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the CNN is shown of uint8 or [0, 1] images (n, 3, H, W): (inputs, classes), without gradients."""
    images = images.to(device)
    if images.dtype == torch.uint8:
        images = images.float() / 255
    inputs, classes = sight.see(images)
    return inputs.detach(), classes

"""How good a heatmap is: maps, images and a classifier in; one number per image out. `quality.py` reports them.

Insertion and deletion: Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models"
(2018), section 4.1. Randomised weights: Adebayo et al., "Sanity Checks for Saliency Maps" (2018), section 3.
B images, M masks of each, H × W pixels; maps are larger where a pixel matters more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2.functional import gaussian_blur

from detector.classifier import Classifier

__all__ = [
    "Answers",
    "answers_through",
    "area_under",
    "best_first",
    "blur",
    "first_pixels",
    "randomised",
    "rearranged",
    "resized",
    "smooth_noise",
    "spearman",
    "top_pixels",
    "wilson",
]

Classify = Callable[[Tensor], Tensor]
"""Images (n, 3, H, W) → logits (n, K)."""


@dataclass(frozen=True)
class Answers:
    """What the classifier says of one class per image, each image seen through M masks."""

    logit: Tensor
    """(B, M)."""
    probability: Tensor
    """(B, M)."""


def answers_through(
    classify: Classify, images: Tensor, cover: Tensor, masks: Tensor, classes: Tensor, *, chunk: int = 64
) -> Answers:
    """Classify every image where it is kept through each of its masks, and covered elsewhere.

    Args:
        classify: The classifier.
        images: (B, 3, H, W).
        cover: What is seen where a mask is 0; broadcasts to `images`.
        masks: (B, M, H, W) bool, True where the image is kept; or in [0, 1], its share in what is seen.
        classes: (B,) the class asked for.
        chunk: Images a forward, at most; changes no value.
    """
    cover = cover.expand_as(images)
    pairs = torch.cartesian_prod(torch.arange(masks.shape[0]), torch.arange(masks.shape[1])).to(images.device)
    logits, probabilities = [], []
    with torch.no_grad():
        for some in torch.split(pairs, chunk):
            image, mask = some.unbind(1)
            seen = cover[image].lerp(images[image], masks[image, mask][:, None].to(images))  # (n, 3, H, W)
            logit, wanted = classify(seen), classes[image, None]
            logits.append(logit.gather(1, wanted))
            probabilities.append(logit.softmax(1).gather(1, wanted))
    shape = masks.shape[:2]
    return Answers(torch.cat(logits).view(shape), torch.cat(probabilities).view(shape))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) at `size`, bilinear; as they are where the size is right."""
    if maps.shape[1:] == size:
        return maps
    return nn.functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def best_first(maps: Tensor, seed: int = 0) -> Tensor:
    """Each pixel's place in the order of its map, (B, H, W) from 0 (the largest); equal pixels in random order."""
    flat = maps.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(maps.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]  # (B, HW): pixels, best first
    places = torch.empty_like(order).scatter_(
        1, order, torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    )
    return places.view_as(maps)


def top_pixels(maps: Tensor, share: float) -> Tensor:
    """(B, H, W) bool: True in the `share` of pixels where a map is largest, the same number for every map."""
    return best_first(maps) < round(share * maps[0].numel())


def rearranged(masks: Tensor, maps: Tensor) -> Tensor:
    """The values of each mask (B, H, W) in the order of maps (B, M, H, W): (B, M, H, W) of its area and softness."""
    values = masks.flatten(1).sort(dim=1, descending=True).values
    places = best_first(maps.flatten(0, 1)).view(*maps.shape[:2], -1)
    return values[:, None].expand(places.shape).gather(2, places).view_as(maps)


def first_pixels(places: Tensor, steps: int) -> Tensor:
    """(B, steps + 1, H, W) bool: none, the first 1/steps, …, all of the pixels whose order is `places` (B, H, W)."""
    counts = torch.linspace(0, places[0].numel(), steps + 1, device=places.device).round()
    return places[:, None] < counts[:, None, None]


def area_under(curves: Tensor) -> Tensor:
    """(B,): area under curves (B, steps + 1) over 0 … 1, by trapezia."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Images (B, 3, H, W) under a Gaussian of `sigma` pixels, cut off at 3 σ; borders are mirrored."""
    side = min(2 * math.ceil(3 * sigma) + 1, 2 * min(images.shape[2:]) - 1)  # a mirror shows no more than the image
    for kernel in ([side, 1], [1, side]):  # one axis after the other: the same, and less work
        images = gaussian_blur(images, kernel, [sigma, sigma])
    return images


def smooth_noise(count: int, size: tuple[int, int], sigma: float, seed: int) -> Tensor:
    """(count, H, W): white noise smoothed by a Gaussian of `sigma` pixels, alike at every place."""
    margin = math.ceil(3 * sigma)  # what wraps around is cut off
    height, width = (side + 2 * margin for side in size)
    noise = torch.randn(count, height, width, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2  # squared
    spectrum = torch.fft.rfft2(noise) * torch.exp(-2 * (math.pi * sigma) ** 2 * frequency)
    smooth: Tensor = torch.fft.irfft2(spectrum, s=noise.shape[1:])
    return smooth[:, margin : margin + size[0], margin : margin + size[1]]


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """(B,): rank correlation of maps (B, ...), equal values sharing their mean rank; NaN where a map is constant."""
    one, other = (_ranks(maps.flatten(1)) for maps in (first, second))
    one, other = (ranks - ranks.mean(1, keepdim=True) for ranks in (one, other))
    length = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    correlation: Tensor = (one * other).sum(1) / length
    return correlation


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, (low, high): Wilson 1927. Unlike a bootstrap's, not empty where every image hits."""
    z = 1.96
    middle = (hits + z**2 / 2) / (count + z**2)
    half = z / (count + z**2) * math.sqrt(hits * (count - hits) / count + z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _ranks(values: Tensor) -> Tensor:
    ordered = values.sort(1).values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / 2


def randomised(classifier: Classifier, images: Tensor, seed: int = 0) -> Classifier:
    """A copy whose every parameter is drawn anew, normal with the mean and deviation it had over its tensor.

    Batch norms learn their statistics anew from `images`, so that signals neither die out nor explode.
    """
    classifier = copy.deepcopy(classifier)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in classifier.module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.copy_(parameter.mean() + drawn * parameter.std(correction=0))
        norms = [module for module in classifier.module.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
            norm.train()
        classifier.module(images)
        for norm in norms:
            norm.eval()
    return classifier

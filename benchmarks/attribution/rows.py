"""One heatmap method measured on all photographs: a method and `Photographs` in, a `Row` of numbers per image out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attribution import metrics
from benchmarks.attribution.images import AREA, Photographs, mask_maps
from detector.classifier import Classifier
from detector.heatmaps import Method, input_gradients
from training.evaluation.metrics import Bootstrap, Estimate
from training.progress import Advance

__all__ = ["PICTURED", "Maker", "Plan", "Row", "maker", "measure", "measure_maps"]

PICTURED = 10
SHARES = {"beats random", "soft mask beats random"}

Maker = Callable[[Classifier, Photographs], Tensor]
"""Photographs → maps (B, h, w) of their classes."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    images: int
    curves: int
    """The first of the images: insertion and deletion."""
    probes: int
    """The first of the images: also under random weights, and mirrored."""
    batch: int
    steps: int
    """Of insertion and deletion."""
    settings: Mapping[str, Mapping[str, Any]]
    """Of methods, where not their defaults."""


@dataclass
class Row:
    """What was measured of one method."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    """By column, the numbers of the images, in order."""
    maps: list[Tensor] = field(default_factory=list)
    """Of the first images."""
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """By batch: of the method, of one forward and input gradient."""

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.double().cpu())

    def estimates(self, index: Tensor) -> dict[str, Estimate]:
        """Means over the images, whose ids are `index` (N,), where they are defined: a constant map has no ranks."""
        ids, found = index.numpy(), {}
        bootstrap = Bootstrap(ids)
        for name, parts in self.values.items():
            values = torch.cat(parts).numpy()
            defined = np.isfinite(values)
            found[name] = bootstrap.mean(values[defined], ids[: len(values)][defined])
        for name in SHARES & found.keys():
            share, count = found[name].value, found[name].count
            found[name] = Estimate(share, *metrics.wilson(round(share * count), count), count)
        return found

    @property
    def cost(self) -> dict[str, float]:
        """Milliseconds per image, and the time as a multiple of an input gradient's; empty where nothing was timed."""
        if not self.seconds:
            return {}
        own, gradient = (sum(each) for each in zip(*self.seconds, strict=True))
        images = sum(map(len, self.values["beats random"]))
        return {"ms": 1000 * own / images, "times input gradient": own / gradient}


def maker(method: Method, settings: Mapping[str, Any]) -> Maker:
    """The method, for the photographs' own classes."""

    def make(classifier: Classifier, photographs: Photographs) -> Tensor:
        return method(classifier, photographs.pixels, photographs.classes[:, None], **settings).maps[:, 0]

    return make


def measure(
    classifier: Classifier, photographs: Photographs, make: Maker, plan: Plan, advance: Advance, *, masks: bool = False
) -> Row:
    """Everything about one method, whose maps may be `masks`."""
    row = Row()
    shuffled = metrics.randomised(classifier, photographs.pixels[: plan.probes])
    input_gradient(classifier, photographs[: plan.batch])  # the first use pays for set-up
    for start in range(0, len(photographs), plan.batch):
        some = photographs[start : start + plan.batch]
        gradient, _ = timed(input_gradient, classifier, some)
        own, maps = timed(make, classifier, some)
        row.seconds.append((own, gradient))
        row.maps.append(maps[: max(0, PICTURED - start)].cpu())
        row.add(best_pixels(classifier, some, maps, plan))
        if masks:
            row.add(soft_masks(classifier, some, maps, plan))
        row.add(curves(classifier, some[: max(0, plan.curves - start)], maps, plan))
        row.add(changes(classifier, shuffled, some[: max(0, plan.probes - start)], maps, make))
        advance(len(some))
    return row


def measure_maps(classifier: Classifier, photographs: Photographs, maps: Tensor, plan: Plan, advance: Advance) -> Row:
    """The same for maps (N, H, W) that no method made: no cost, no change."""
    row = Row()
    for start in range(0, len(photographs), plan.batch):
        some, ready = photographs[start : start + plan.batch], maps[start : start + plan.batch]
        row.add(best_pixels(classifier, some, ready, plan))
        row.add(curves(classifier, some[: max(0, plan.curves - start)], ready, plan))
        advance(len(some))
    return row


def best_pixels(classifier: Classifier, photographs: Photographs, maps: Tensor, plan: Plan) -> dict[str, Tensor]:
    """What the largest pixels of maps (B, h, w) are worth, beside random masks of their area."""
    best = metrics.top_pixels(metrics.resized(maps, photographs.size), AREA)[:, None]
    answers = metrics.answers_through(
        classifier, photographs.pixels, photographs.blurred, best, photographs.classes, chunk=plan.batch
    )
    gained = answers.logit[:, 0] - photographs.random_logit
    return {"beats random": (gained > 0).double(), "logit gained": gained}


def soft_masks(classifier: Classifier, photographs: Photographs, masks: Tensor, plan: Plan) -> dict[str, Tensor]:
    """What masks (B, H, W) are worth as they are, beside random ones of the same values: of their area and softness."""
    both = torch.cat([masks[:, None], metrics.rearranged(masks, mask_maps(photographs))], 1)
    logit = metrics.answers_through(
        classifier, photographs.pixels, photographs.blurred, both, photographs.classes, chunk=plan.batch
    ).logit
    gained = logit[:, 0] - logit[:, 1:].mean(1)
    return {"soft mask beats random": (gained > 0).double(), "soft mask, logit gained": gained}


def curves(classifier: Classifier, photographs: Photographs, maps: Tensor, plan: Plan) -> dict[str, Tensor]:
    """What the order of the pixels in maps (at least B, h, w) is worth."""
    if not len(photographs):
        return {}
    pixels, maps = photographs.pixels, metrics.resized(maps[: len(photographs)], photographs.size)
    first = metrics.first_pixels(metrics.best_first(maps), plan.steps)
    inserted, deleted = (
        metrics.answers_through(classifier, pixels, cover, masks, photographs.classes, chunk=plan.batch).probability
        for cover, masks in ((photographs.blurred, first), (pixels.mean((2, 3), keepdim=True), ~first))
    )
    return {
        "insertion": metrics.area_under(inserted),
        "deletion": metrics.area_under(deleted),
        "probability, whole": inserted[:, -1],
        "probability, blurred": inserted[:, 0],
        "probability, mean colour": deleted[:, -1],
    }


def changes(
    classifier: Classifier, shuffled: Classifier, photographs: Photographs, maps: Tensor, make: Maker
) -> dict[str, Tensor]:
    """How maps (at least B, h, w) change with the classifier's weights, and how little with a mirror."""
    if not len(photographs):
        return {}
    maps = maps[: len(photographs)]
    meaningless = make(shuffled, photographs)
    others = meaningless.roll(1, 0)  # what is left is what all maps have in common, such as faint borders
    mirrored = make(classifier, photographs.mirrored()).flip(2)
    return {
        "random weights": metrics.spearman(maps, meaningless),
        "random weights, absolute": metrics.spearman(maps.abs(), meaningless.abs()),
        "random weights, another image": metrics.spearman(maps.abs(), others.abs()),
        "flip": metrics.spearman(maps, mirrored),
    }


def input_gradient(classifier: Classifier, photographs: Photographs) -> Tensor:
    """What methods' costs are compared with: one forward, one backward."""
    return input_gradients(classifier, photographs.pixels, photographs.classes[:, None])[1]


def timed(make: Maker, classifier: Classifier, photographs: Photographs) -> tuple[float, Tensor]:
    """Seconds, on a CPU those that its threads spent; and what was made."""
    clock = time.process_time if classifier.device.type == "cpu" else time.perf_counter
    start = clock()
    made = make(classifier, photographs)
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)
    return clock() - start, made

"""Learned masks: the smallest part of an image that carries the decision, batched over images, classes and areas.

    images (B, 3, H, W), classes (B, C), areas (A) ─▶ B·C·A rows ─▶ climb ─▶ masks (B, C, A, H, W) in [0,1]

extremal: Fong, Patrick & Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks" (2019),
section 3: the mask of a given area that keeps (or whose loss takes) most of the class's logit.
meaningful: Fong & Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation" (2017), section 4:
the mask that trades its own size and roughness against the class's probability.

Memory is linear in `chunk`, the rows that are worked on at once: each needs about what the classifier keeps for the
backward pass of one image. The classifier is read, never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from detector.classifier import Classifier
from detector.errors import HeatmapError
from detector.heatmaps.ascent import Climb, climb
from detector.heatmaps.heatmap import check_at_least, received
from detector.heatmaps.mask_rows import MaskHeatmap, Scene, check_share, over_rows
from detector.heatmaps.masks import SmoothMax, Upsample, level_of, level_set, rank_term, total_variation
from detector.heatmaps.reference import MaskReference

__all__ = ["extremal", "meaningful"]

SHARPNESS = 1.0  # of a mask's edge, per unit of the field
FULL = 2.0  # where meaningful masks start, as a logit: nearly all of the image
FINEST = 28  # cells a side of an extremal mask: the published lattice at 224 px
COARSE = 14  # of a meaningful mask: finer ones need more steps


def extremal(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    areas: Sequence[float] = (0.1,),
    objective: Literal["preserve", "delete", "dual"] = "preserve",
    reference: MaskReference = "blur",
    grid: int | None = None,
    spread: float = 1 / 14,
    binary: float = 0.0,
    steps: int = 8,
    rate: float = 1.0,
    patience: int = 5,
    tolerance: float = 0.01,
    chunk: int = 64,
    seed: int = 0,
) -> MaskHeatmap:
    """Masks of fixed areas that keep, or take away, most of the class's logit.

    Each mask starts from gradient × (image - reference), one forward and C backwards; each step is one forward and one
    backward a row (`dual`: two). The mean of a mask is its area to within a thousandth, at every step.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the predicted class.
        areas: Shares of the image, each in (0, 1).
        objective: "preserve": the mask alone keeps the class; "delete": without the mask it is lost; "dual": both.
        reference: What stands where the image is taken away; see `levels`.
        grid: Cells a side of the lattice that is learned; None: a cell each 2 pixels, at most 28 cells.
        spread: Standard deviation of a bump, as a share of the side: the smallest detail of a mask (the paper: 21 of
            224 pixels).
        binary: Weight of the rank-based area term (equation 3 of the paper), in logits. The area holds without it; it
            makes masks more binary, at a cost in logit.
        steps: Most steps a mask takes.
        rate: Of Adam, in units of the lattice (a logit of the mask).
        patience: A row stops after so many steps without progress.
        tolerance: What counts as progress, as a share of the objective.
        chunk: Rows (image, class, area) at once; bounds memory.
        seed: Of the noise reference.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
        NoGradientError: The classifier cannot be differentiated.
        NonFiniteLogitsError: The classifier answered NaN or infinity.
    """
    images = received(classifier, images)
    for area in areas if isinstance(areas, Sequence) else ():
        check_share("areas", area)
    if not isinstance(areas, Sequence) or not areas:
        raise HeatmapError(
            f"areas: expected at least one share of the image in (0, 1), in a list, got {areas or 'none'}"
        )
    if objective not in ("preserve", "delete", "dual"):
        raise HeatmapError(f"objective: expected 'preserve', 'delete' or 'dual', got {objective!r}")
    height, width = images.shape[2:]
    grid = _grid(grid, FINEST, height, width)
    settings = _climb(steps, rate, patience, tolerance)
    _positive("spread", spread)
    stride = max(1, min(height, width) // (2 * grid))

    def optimise(scene: Scene, start: Tensor, rows_areas: Tensor) -> tuple[Tensor, Tensor]:
        field_of = SmoothMax((height, width), grid, spread * grid, images.device)

        def ascent(lattice: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = lattice.requires_grad_()
                field = field_of(leaf)
                free = field.detach().requires_grad_()
                level = level_of(free[:, ::stride, ::stride], rows_areas[rows], SHARPNESS)
                masks = level_set(free, level, SHARPNESS)
                value = _value(scene, masks, rows, objective)
                if binary:
                    value = value - binary * rank_term(masks[:, ::stride, ::stride], rows_areas[rows])
                (gradient,) = torch.autograd.grad(value.sum(), free)
                edge = masks.detach() * (1 - masks.detach())  # the level follows the field: its share leaves
                share = gradient.sum((1, 2), keepdim=True) / edge.sum((1, 2), keepdim=True).clamp(min=1e-12)
                (upward,) = torch.autograd.grad(field, leaf, gradient - share * edge)
            return value.detach(), upward

        best, taken = climb(start, ascent, settings)
        field = field_of(best)
        return level_set(field, level_of(field, rows_areas, SHARPNESS), SHARPNESS), taken

    def begin(saliency: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(saliency, grid)
        return pooled / pooled.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)

    return over_rows(classifier, images, classes, list(areas), reference, seed, chunk, begin, optimise)


def meaningful(
    classifier: Classifier,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    objective: Literal["delete", "preserve"] = "delete",
    reference: MaskReference = "blur",
    grid: int | None = None,
    size_weight: float = 1.0,
    roughness_weight: float = 2.0,
    roughness_power: float = 3.0,
    jitter: int | None = None,
    steps: int = 25,
    rate: float = 0.6,
    patience: int = 15,
    tolerance: float = 0.01,
    chunk: int = 64,
    seed: int = 0,
) -> MaskHeatmap:
    """Smooth masks that trade size and roughness against the class's probability; A is 1, its area is what comes out.

    The objective is the change of the class's probability, less `size_weight` · mean |mask| (L1), less
    `roughness_weight` · mean |difference of neighbours| ** `roughness_power` (TV). Each step is one forward and one
    backward a row.

    Args:
        classifier: The classifier under guard.
        images: (B, 3, H, W) in [0,1].
        classes: (B, C), or None for the predicted class.
        objective: "delete": without the mask the class is lost; "preserve": the mask alone keeps it.
        reference: What stands where the image is taken away; see `levels`.
        grid: Cells a side of the coarse mask; None: a cell each 2 pixels, at most 14 cells.
        size_weight: Of the L1 term.
        roughness_weight: Of the TV term.
        roughness_power: Its exponent β.
        jitter: Each step moves the perturbed image by up to so many pixels, so that no single pixel decides; None: a
            thirty-second of the side.
        steps: Most steps a mask takes.
        rate: Of Adam, in units of the mask's logit.
        patience: A row stops after so many steps without progress.
        tolerance: What counts as progress, as a share of the objective.
        chunk: Rows (image, class) at once; bounds memory.
        seed: Of the jitter and the noise reference.

    Raises:
        ImageShapeError: `images` are no such batch.
        HeatmapError: A setting or `classes` out of range.
        NoGradientError: The classifier cannot be differentiated.
        NonFiniteLogitsError: The classifier answered NaN or infinity.
    """
    images = received(classifier, images)
    if objective not in ("delete", "preserve"):
        raise HeatmapError(f"objective: expected 'delete' or 'preserve', got {objective!r}")
    height, width = images.shape[2:]
    grid = _grid(grid, COARSE, height, width)
    settings = _climb(steps, rate, patience, tolerance)
    reach = min(height, width) // 32 if jitter is None else jitter
    check_at_least("jitter", reach, 0, min(height, width) - 1)
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randint(-reach, reach + 1, (steps + 1, 2), generator=generator).tolist()  # the same for every row

    def optimise(scene: Scene, start: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        upsample = Upsample((height, width), grid, images.device)

        def ascent(lattice: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = lattice.requires_grad_()
                coarse = torch.sigmoid(leaf)
                logits = scene.logits(upsample(coarse), rows, keep=objective == "preserve", move=moves[step])
                probability = logits.softmax(1).gather(1, scene.labels[rows, None])[:, 0]
                value = probability if objective == "preserve" else -probability
                value = value - size_weight * coarse.mean((1, 2))
                value = value - roughness_weight * total_variation(coarse, roughness_power)
                (upward,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), upward

        best, taken = climb(start, ascent, settings)
        return upsample(torch.sigmoid(best)), taken

    def begin(saliency: Tensor) -> Tensor:
        return torch.full((len(saliency), grid, grid), FULL, device=images.device)

    return over_rows(classifier, images, classes, [0.5], reference, seed, chunk, begin, optimise)


def _value(scene: Scene, masks: Tensor, rows: Tensor, objective: str) -> Tensor:
    """(m,): what extremal masks maximise."""
    if objective == "preserve":
        return scene.logit(masks, rows, keep=True)
    if objective == "delete":
        return -scene.logit(masks, rows, keep=False)
    return scene.logit(masks, rows, keep=True) - scene.logit(masks, rows, keep=False)


def _grid(grid: int | None, finest: int, height: int, width: int) -> int:
    shorter = min(height, width)
    if grid is None:
        return max(2, min(finest, shorter // 2))
    check_at_least("grid", grid, 2, shorter)
    return grid


def _positive(setting: str, value: float) -> float:
    if not 0 < value < torch.inf:
        raise HeatmapError(f"{setting}: expected a number above 0, got {value!r}")
    return value


def _climb(steps: int, rate: float, patience: int, tolerance: float) -> Climb:
    check_at_least("steps", steps, 1)
    check_at_least("patience", patience, 1)
    if tolerance < 0:
        raise HeatmapError(f"tolerance: expected a number >= 0, got {tolerance!r}")
    return Climb(steps, _positive("rate", rate), patience, tolerance)

"""A net on a few made-up images, before it is trusted → **its taps, and why no gradient reaches its images**.

Whatever would show at the first real image, far from its cause, is an error here: a net that loses the batch dimension
of a single image, whose answers depend on the neighbours in the batch or on chance, that answers labels, probabilities
or another number of classes than its owner lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detector.classifier.places import IMAGES, ROUNDS, placed
from detector.classifier.survey import Survey
from detector.classifier.taps import Tap
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec

__all__ = ["Probe", "probe"]

ALIKE = 0.02
"""Of the logits' spread: leaves room for TF32 and bfloat16, none for batch statistics."""
ROUNDING = 1e-3  # of the logits themselves
SUM_TOLERANCE = 0.01  # of probabilities in half precision
NUMBERS = {1: "one image", 2: "two images", 3: "three images", IMAGES: f"{IMAGES} images"}
SQUASHED = {"SigmoidBackward0": "sigmoid", "HardsigmoidBackward0": "hard sigmoid"}
PASSED_ON = {"ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0"}
PASSED_ON |= {"ClampBackward0", "ClampBackward1", "ClampMinBackward0", "ClampMaxBackward0"}
"""What may stand behind a net's last operation without changing its answers."""


@dataclass(frozen=True)
class Probe:
    """What a few images told."""

    taps: tuple[Tap, ...]
    """Where its maps can be read."""
    left_out: dict[str, str]
    """Submodules whose answers cannot, and why."""
    no_gradient: str
    """Why no gradient reaches the images; empty where one does."""


def probe(module: nn.Module, shown: nn.Module, spec: ClassifierSpec, device: torch.device) -> Probe:
    """Run batches of two, one and three images, and of images changed at one corner each.

    Args:
        module: Images in [0, 1] → logits.
        shown: The net within it whose submodules are looked at.
        spec: What its owner says of it.
        device: Where it runs.

    Raises:
        ClassifierSpecError: It cannot be used as it is; says how to mend it.
    """
    images = _images(spec.input_size).to(device)
    survey = Survey(shown, spec.input_size)
    with torch.no_grad():
        with survey.batch(2):
            two = _answer(module, images[:2], spec)
        with survey.batch(1):
            one = _answer(module, images[:1], spec)
        with survey.batch(3):
            three = _answer(module, images, spec)
        for turn in range(ROUNDS if survey.sees_any else 0):
            with survey.corners():
                _answer(module, placed(spec.input_size, turn).to(device), spec)
    if not (_alike(one, two[:1]) and _alike(three[:2], two)):
        raise ClassifierSpecError(f"{spec.source} {_unlike(module, images[:2], two)}")
    images.requires_grad_()
    try:
        with torch.enable_grad():
            three = module(images)
    except Exception as error:  # the user's code
        no_gradient = f"it fails where gradients are on: {type(error).__name__}: {error}"
    else:
        no_gradient = _no_gradient(three, images)
    _check_logits(three, spec)
    if not no_gradient and survey.is_unsure:
        with suppress(Exception), torch.enable_grad(), survey.gradients():  # a net that fails here shows no layers
            _no_gradient(module(images), images)
    return Probe(survey.taps(), survey.left_out, no_gradient)


def _images(size: tuple[int, int]) -> Tensor:
    """(3, 3, H, W): noise, soft colours, faint noise on grey: one wakes a net that another leaves asleep."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, *size, generator=generator)
    soft = interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=size, mode="bilinear", align_corners=False)
    return torch.cat([noise[:1], soft, 0.4 + 0.2 * noise[1:]])


def _answer(module: nn.Module, images: Tensor, spec: ClassifierSpec) -> Tensor:
    """Logits (n, K) as they come; the user's code runs here."""
    count, classes = len(images), len(spec.classes)
    try:
        answer = module(images)
    except Exception as error:
        told = f"{spec.source} failed on {NUMBERS[count]} of {spec.input_size} ({type(error).__name__}: {error}): "
        if count == 2:
            told += "check input_size, and that it takes batches of any size."
        elif count == 1:
            told += "two at once work, so keep the batch dimension: flatten(1), not squeeze(); no fixed sizes."
        else:
            told += "two at once work, so its batch size is fixed: trace or export it with a dynamic batch dimension."
        raise ClassifierSpecError(told) from error
    if not isinstance(answer, Tensor):
        raise ClassifierSpecError(
            f"{spec.source} answers a {type(answer).__name__}, expected a tensor of logits: {_unwrap(answer)}."
        )
    if tuple(answer.shape) != (count, classes):
        raise ClassifierSpecError(
            f"{spec.source} answers {tuple(answer.shape)} for {NUMBERS[count]}, expected {(count, classes)}: "
            f"{_mend_shape(tuple(answer.shape), count, classes)}."
        )
    if not answer.is_floating_point():
        raise ClassifierSpecError(
            f"{spec.source} answers {answer.dtype}, expected logits, a floating-point number for each class: "
            "leave out an argmax or a threshold at its end."
        )
    return answer


def _unwrap(answer: Any) -> str:
    if isinstance(answer, Mapping):
        name = next((name for name in ("logits", "out") if name in answer), None)
        return (
            f"wrap the net so that it returns answer[{name!r}] alone" if name else "wrap the net so that it returns one"
        )
    if isinstance(answer, tuple | list) and answer:
        return "wrap the net so that it returns the logits alone, say answer[0]; auxiliary ones are for training"
    return "wrap the net so that it returns the logits alone" + ", answer.logits" * hasattr(answer, "logits")


def _mend_shape(shape: tuple[int, ...], count: int, classes: int) -> str:
    size = torch.Size(shape).numel()
    if shape[:2] == (count, classes) and size == count * classes:
        return "end it in flatten(1)"
    if shape == (classes, count):
        return "images come first, end it in .T"
    if size == count * classes:
        return "the batch dimension is lost, keep it: flatten(1) in place of flatten(0), squeeze() or view(-1)"
    if shape == (count,) and classes != 2:
        return "one logit for each class, leave out an argmax at its end"
    if len(shape) == 2 and shape[0] == count:
        return f"the spec lists {classes} classes, one logit each"
    if shape == (count,) and classes == 2:
        return "for one logit x of two classes answer torch.stack([-x / 2, x / 2], 1)"
    return f"one row for each image, one logit for each of the {classes} classes that the spec lists"


def _alike(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach().double(), other.detach().double()
    if not (one.isfinite().all() and other.isfinite().all()):
        return True  # refused where it is used, with its own error
    spread = (other - other.mean(1, keepdim=True)).abs().amax()
    return bool((one - other).abs().amax() <= ALIKE * spread + ROUNDING * other.abs().amax())


@torch.no_grad()
def _unlike(module: nn.Module, pair: Tensor, logits: Tensor) -> str:
    if not _alike(module(pair), logits):
        return (
            "answers the same images differently each time: switch dropout, noise and other chance off in eval mode "
            "(a functional dropout needs training=self.training)."
        )
    return (
        "answers an image differently beside other images, and an answer must depend on its image alone: batch norm "
        "must use its running statistics (training=False), softmax and mean the class dimension, and a traced program "
        "no fixed batch size."
    )


def _check_logits(logits: Tensor, spec: ClassifierSpec) -> None:
    values = logits.detach().double()
    sums = values.sum(1)
    if values.isnan().any(1).all() or values.isinf().any(1).all():
        raise ClassifierSpecError(f"{spec.source} answers {_not_finite(values)}")
    found = ""
    for whole in (1, 100):
        if values.min() >= 0 and bool(((sums - whole).abs() <= SUM_TOLERANCE * whole).all()):
            found = "probabilities (as of a softmax)"
    squashed = SQUASHED.get(_last_operation(logits))
    if squashed and values.min() >= 0 and values.max() <= 1:
        found = f"probabilities (of a {squashed})"
    if found:
        raise ClassifierSpecError(
            f"{spec.source} answers {found}, expected logits, the numbers that go into it: leave that last layer out, "
            "or wrap the net so that it returns them. (For heatmaps, detector.classifier.black_box.BlackBox takes "
            "probabilities.)"
        )


def _not_finite(values: Tensor) -> str:
    if not values.isnan().any() and values.max() <= 0:
        return (
            "minus infinity for every image, expected logits: the logarithm of a softmax that is exactly 0 somewhere? "
            "Return log_softmax of the logits, or the logits."
        )
    return (
        "NaN or infinity for every image, expected logits: look at its weights (a file of half precision that "
        "overflowed?) and its preprocessing (a std near 0?)."
    )


def _last_operation(logits: Tensor) -> str:
    node = logits.grad_fn
    while node is not None and node.name() in PASSED_ON and node.next_functions:
        node = node.next_functions[0][0]
    return node.name() if node is not None else ""


def _no_gradient(logits: Tensor, images: Tensor) -> str:
    weights = torch.arange(1.0, logits.shape[1] + 1, device=logits.device)  # unequal: a constant sum has no gradient
    gradient = None
    if logits.requires_grad:
        try:
            (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), images, allow_unused=True)
        except RuntimeError as error:
            return f"its backward pass fails: {str(error).splitlines()[0]}"
    if gradient is None:
        return "something in it leaves the graph: torch.no_grad(), detach(), numpy, argmax or quantised layers"
    if not gradient.isfinite().all():
        return "its gradients are NaN or infinite"
    if gradient.any():
        return ""
    if bool(((logits.double().exp().sum(1) - 1).abs() <= SUM_TOLERANCE).all()):
        return "it answers the logarithm of saturated probabilities; return log_softmax of the logits, or the logits"
    if torch.equal(logits[:1].expand_as(logits), logits):
        return "every image gets the same logits: its head is all zeros, or trained weights are missing; give `weights`"
    return "they are all zero: it rounds, compares with thresholds, or is saturated (a softmax or sigmoid within it?)"

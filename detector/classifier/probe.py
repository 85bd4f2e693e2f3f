"""A net on a few made-up images, before it is trusted → **its taps, and why no gradient reaches its images**.

Whatever would show at the first real image, far from its cause, is an error here: a net that loses the batch dimension
of a single image, whose answers depend on the neighbours in the batch or on chance, that answers labels or another
number of classes than its owner lists. How its answers become logits is found here, too (`heads.py`).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detector.classifier.heads import NUMBERS, SUM_TOLERANCE, Head, find_head, judged
from detector.classifier.places import ROUNDS, placed
from detector.classifier.preprocessing import Normalized
from detector.classifier.survey import Survey
from detector.classifier.taps import Tap
from detector.errors import ClassifierSpecError, HeatwardError
from detector.spec import ClassifierSpec
from detector.text import briefly, first_line

__all__ = ["Probe", "probe"]

ALIKE = 0.02
"""Of the logits' spread: leaves room for TF32 and bfloat16, none for batch statistics."""
ROUNDING = 1e-3  # of the logits themselves


@dataclass(frozen=True)
class Probe:
    """What a few images told."""

    taps: tuple[Tap, ...]
    """Where its maps can be read."""
    left_out: dict[str, str]
    """Submodules whose answers cannot, and why."""
    no_gradient: str
    """Why no gradient reaches the images; empty where one does."""
    head: Head
    """How the net's answers become logits."""


def probe(module: Normalized, shown: nn.Module, spec: ClassifierSpec, device: torch.device) -> Probe:
    """Run batches of two, one and three images, and of images changed at one corner each.

    Args:
        module: Images in [0, 1] → logits, once it is given the head that is found here.
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
            answer = _answer(module, images[:2], spec)
        head = find_head(answer, 2, spec)
        two = _numbers(head, answer, 2, spec)
        with survey.batch(1):
            one = _numbers(head, _answer(module, images[2:], spec), 1, spec)
    answer, failed = _on_graph(module, images.requires_grad_(), survey)
    if failed:
        with torch.no_grad(), survey.batch(3):
            answer = _answer(module, images.detach(), spec)
    three = _numbers(head, answer, 3, spec)
    if not (_alike(one, three[2:]) and _alike(three[:2], two)):
        raise ClassifierSpecError(f"{spec.source} {_unlike(module, head, images[:2], two)}")
    head = judged(head, three, spec)
    with torch.enable_grad():
        no_gradient = failed or _no_gradient(head(answer), images)
    for turn in range(ROUNDS if survey.sees_any else 0):
        if not survey.is_sure:
            with torch.no_grad(), survey.corners():
                _answer(module, placed(spec.input_size, turn).to(device), spec)
    return Probe(survey.taps(differentiated=not no_gradient), survey.left_out, no_gradient, head)


def _images(size: tuple[int, int]) -> Tensor:
    """(3, 3, H, W): noise, soft colours, faint noise on grey: one wakes a net that another leaves asleep.

    The last, which is asked about alone, too, is the faintest: a net that scales by the brightest of a batch shows it.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, *size, generator=generator)
    soft = interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=size, mode="bilinear", align_corners=False)
    return torch.cat([noise[:1], soft, 0.4 + 0.2 * noise[1:]])


def _on_graph(module: Normalized, images: Tensor, survey: Survey) -> tuple[Any, str]:
    """What the net answers where gradients are on, or why it does not."""
    failed = ""
    for watch in (
        partial(survey.gradients, len(images)),
        nullcontext,
    ):  # a net that fails with the first alone shows no layers
        try:
            with torch.enable_grad(), watch():
                return module.answer(images), ""
        except HeatwardError:
            raise
        except Exception as error:  # the user's code
            failed = f"it fails where gradients are on: {type(error).__name__}: {briefly(error)}"
    return None, failed


def _answer(module: Normalized, images: Tensor, spec: ClassifierSpec) -> Any:
    """What the net answers, as it comes; the user's code runs here."""
    count = len(images)
    try:
        return module.answer(images)
    except HeatwardError:  # a model that is asked says itself what is wrong
        raise
    except Exception as error:
        asked = NUMBERS.get(count, f"{count} images")
        told = f"{spec.source} failed on {asked} of {spec.input_size} ({type(error).__name__}: {briefly(error)}): "
        if count == 2:
            told += (
                _channels(module) or _precision(module) or "check input_size, and that it takes batches of any size."
            )
        elif count == 1:
            told += "two at once work, so keep the batch dimension: flatten(1), not squeeze(); no fixed sizes."
        else:
            told += "two at once work, so its batch size is fixed: trace or export it with a dynamic batch dimension."
        raise ClassifierSpecError(told) from error


def _channels(module: Normalized) -> str:
    """How to mend it where the net's first convolution takes other images than it is given; else empty."""
    wanted = next((each.in_channels for each in module.net.modules() if isinstance(each, nn.Conv2d)), None)
    given = 1 if module.grey else 3
    if wanted in (None, given):
        return ""
    if wanted == 1:
        return 'its first convolution takes one channel: write channel_order = "grey" in [classifier.preprocessing].'
    if wanted == 3:
        return 'its first convolution takes three channels: leave channel_order = "grey" out.'
    return f"its first convolution takes {wanted} channels, and images have three: wrap the net so that it adds others."


def _precision(module: Normalized) -> str:
    """How to mend it where the net's parameters are no float32; else empty."""
    others = {each.dtype for each in module.net.parameters() if each.is_floating_point()} - {torch.float32}
    if not others:
        return ""
    return f"its parameters are {', '.join(sorted(map(str, others)))}, and images are float32: end it in .float()."


def _numbers(head: Head, answer: Any, count: int, spec: ClassifierSpec) -> Tensor:
    """Those of the net, for `count` images."""
    numbers, expected = head.values(answer), head.shape(count, len(spec.classes))
    shape = tuple(numbers.shape)
    if shape != expected and not (head.single and shape == (count,)):
        raise ClassifierSpecError(
            f"{spec.source} answers {shape} for {NUMBERS[count]}, expected {expected}: {_mend_shape(shape, *expected)}."
        )
    if numbers.layout != torch.strided:
        raise ClassifierSpecError(f"{spec.source} answers a sparse tensor, expected logits: end it in .to_dense().")
    if not numbers.is_floating_point():
        raise ClassifierSpecError(
            f"{spec.source} answers {numbers.dtype}, expected logits, a floating-point number for each class: "
            "leave out an argmax or a threshold at its end."
        )
    return numbers


def _mend_shape(shape: tuple[int, ...], count: int, classes: int) -> str:
    size = torch.Size(shape).numel()
    if len(shape) > 2 and shape[0] == count and size == count * classes:
        return "end it in flatten(1)"
    if shape == (classes, count):
        return "images come first, end it in .T"
    if size == count * classes:
        return "the batch dimension is lost, keep it: flatten(1) in place of flatten(0), squeeze() or view(-1)"
    if shape == (count,):
        return "one logit for each class, leave out an argmax at its end"
    if len(shape) == 2 and shape[0] == count:
        return f"the spec lists {classes} classes, one logit each"
    return f"one row for each image, one logit for each of the {classes} classes that the spec lists"


def _alike(one: Tensor, other: Tensor) -> bool:
    one, other = (each.detach().double().reshape(len(each), -1) for each in (one, other))
    if not (one.isfinite().all() and other.isfinite().all()):
        return True  # refused where it is used, with its own error
    middle = other.mean(1, keepdim=True) if other.shape[1] > 1 else 0.0
    spread = (other - middle).abs().amax()
    return bool((one - other).abs().amax() <= ALIKE * spread + ROUNDING * other.abs().amax())


@torch.no_grad()
def _unlike(module: Normalized, head: Head, pair: Tensor, numbers: Tensor) -> str:
    if not _alike(head.values(module.answer(pair)), numbers):
        return (
            "answers the same images differently each time: switch dropout, noise and other chance off in eval mode "
            "(a functional dropout needs training=self.training)."
        )
    return (
        "answers an image differently beside other images, and an answer must depend on its image alone: batch norm "
        "must use its running statistics (training=False), softmax and mean the class dimension, and a traced program "
        "no fixed batch size."
    )


def _no_gradient(logits: Tensor, images: Tensor) -> str:
    weights = torch.arange(1.0, logits.shape[1] + 1, device=logits.device)  # unequal: a constant sum has no gradient
    gradient = None
    if logits.requires_grad:
        try:
            (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), images, allow_unused=True)
        except RuntimeError as error:
            return f"its backward pass fails: {first_line(error)}"
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

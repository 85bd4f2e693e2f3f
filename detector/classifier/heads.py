"""A net's own answer → `Head` → **logits (B, K)**: what a net may answer, and what is refused with a way out.

    logits (B, K)                                             as they are
    a dictionary, tuple or ModelOutput                        its logits: by that name, else the entry that fits
    one number z for two classes, (B, 1) or (B,)              (0, z): above 0 speaks for the second class
    probabilities (B, K), or one, of the second class         their logarithms

A head is found once, when the net is probed, and belongs to the classifier's fingerprint from then on. A multi-label
head (a sigmoid for each class) is refused: a verdict names the one class that an attack hides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec

__all__ = ["NUMBERS", "Head", "find_head", "judged"]

NUMBERS = {1: "one image", 2: "two images", 3: "three images"}
SUM_TOLERANCE = 0.01  # of probabilities in half precision
TINY = torch.finfo(torch.float32).tiny
EPSILON = torch.finfo(torch.float32).eps
SQUASHED = {"SigmoidBackward0": "sigmoid", "HardsigmoidBackward0": "hard sigmoid"}
PASSED_ON = {"ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0"}
PASSED_ON |= {"ClampBackward0", "ClampBackward1", "ClampMinBackward0", "ClampMaxBackward0"}
PASSED_ON |= {"SqueezeBackward0", "SqueezeBackward1", "SelectBackward0", "UnsqueezeBackward0"}
PASSED_ON |= {"TBackward0", "TransposeBackward0", "PermuteBackward0"}
"""What may stand behind a net's last operation without changing its answers."""
LINEAR = {"AddmmBackward0", "MmBackward0", "LinearBackward0", "AddBackward0", "ConvolutionBackward0", "MeanBackward1"}
"""Operations that end in numbers of any size, and not in shares."""
JOINED = {"CatBackward0", "StackBackward0"}
NAMED = ("logits", "out", "output")
"""Under which a dictionary may hold its logits."""

_log = logging.getLogger("heatward")


@dataclass(frozen=True)
class Head:
    """How a net's answer becomes logits.

    Attributes:
        entry: Name or place of the logits in a dictionary, a tuple or a ModelOutput; None: the answer is a tensor.
        single: One number for two classes, of the second one.
        probabilities: Not logits, but what a softmax or sigmoid made of them.
    """

    entry: str | int | None = None
    single: bool = False
    probabilities: bool = False

    def __call__(self, answer: Any) -> Tensor:
        """Logits (B, K)."""
        values = self.values(answer)
        if self.single:
            second = values.reshape(len(values))
            if not self.probabilities:
                return torch.stack([torch.zeros_like(second), second], 1)
            share = second.float().clamp(TINY, 1 - EPSILON)
            return torch.stack([torch.log1p(-share), share.log()], 1)
        return values.float().clamp_min(TINY).log() if self.probabilities else values

    def values(self, answer: Any) -> Tensor:
        """The net's own numbers."""
        if self.entry is None:
            return answer  # type: ignore[no-any-return]  # judged when it was found
        if isinstance(self.entry, str) and not isinstance(answer, Mapping):
            return getattr(answer, self.entry)  # type: ignore[no-any-return]
        return answer[self.entry]  # type: ignore[no-any-return]

    def shape(self, count: int, classes: int) -> tuple[int, int]:
        """Of the net's own numbers for so many images."""
        return (count, 1 if self.single else classes)

    @property
    def kind(self) -> str:
        """For the fingerprint and for people; empty where the net answers logits (B, K)."""
        parts = [
            "" if self.entry is None else f"entry {self.entry}",
            "one for two classes" * self.single,
            "probabilities" * self.probabilities,
        ]
        return ", ".join(part for part in parts if part)


def find_head(answer: Any, count: int, spec: ClassifierSpec) -> Head:
    """Where the numbers are in what a net answers for `count` images, at least two.

    Raises:
        ClassifierSpecError: It holds no tensor that could be logits of these classes.
    """
    classes = len(spec.classes)
    if isinstance(answer, Tensor):
        single = classes == 2 and tuple(answer.shape) in ((count,), (count, 1))
        return Head(single=single)
    found: dict[str | int, Tensor] = dict(_entries(answer))
    names: list[str | int] = [name for name in NAMED if name in found] or list(found)
    whole = [name for name in names if tuple(found[name].shape) == (count, classes)]
    alone = [name for name in names if classes == 2 and tuple(found[name].shape) in ((count,), (count, 1))]
    if fitting := whole or alone:
        return Head(_chosen(fitting, spec), single=not whole)
    held = ", ".join(f"{name}: {tuple(values.shape)}" for name, values in found.items())
    raise ClassifierSpecError(
        f"{spec.source} answers a {type(answer).__name__} with {held or 'no tensor'} for {NUMBERS[count]}, expected "
        f"logits {(count, classes)}, by the name 'logits' or as its first entry: wrap the net so that it returns them "
        "alone, or list as many classes as it has."
    )


def _chosen(fitting: list[str | int], spec: ClassifierSpec) -> str | int:
    """Of several entries that fit: a usual name, or the only one that is not auxiliary; of a tuple the first."""
    main = [name for name in fitting if "aux" not in str(name).lower()] or fitting
    if len(main) > 1 and isinstance(main[0], str) and main[0] not in NAMED:
        raise ClassifierSpecError(
            f"{spec.source} answers several entries that may be its logits ({', '.join(map(str, main))}): wrap the net "
            "so that it returns one of them alone, or under the name 'logits'."
        )
    if len(main) > 1 and isinstance(main[0], int):
        _log.warning("%s answers several that may be its logits: the first of them, %s, is taken", spec.source, main[0])
    return main[0]


def _entries(answer: Any) -> Iterator[tuple[str | int, Tensor]]:
    """Tensors in a dictionary, a tuple, or an object with `logits`."""
    if isinstance(answer, Mapping):
        pairs: Any = answer.items()
    elif isinstance(getattr(answer, "logits", None), Tensor):
        pairs = [("logits", answer.logits)]
    elif isinstance(answer, tuple) and hasattr(answer, "_asdict"):  # named
        pairs = answer._asdict().items()
    elif isinstance(answer, tuple | list):
        pairs = enumerate(answer)
    else:
        pairs = ()
    for name, value in pairs:
        if isinstance(value, Tensor) and isinstance(name, str | int):
            yield name, value


def judged(head: Head, values: Tensor, spec: ClassifierSpec) -> Head:
    """The head, told whether the net's numbers are logits or probabilities.

    Args:
        head: As found.
        values: The net's own numbers for a few images, on the graph where it has one.
        spec: Its `output` settles what they are; "auto" looks at them.

    Raises:
        ClassifierSpecError: They are neither, or the spec's `output` is wrong, or no logarithm brings the logits back.
    """
    numbers = values.detach().double().reshape(len(values), -1)
    if numbers.isnan().any(1).all() or numbers.isinf().any(1).all():
        raise ClassifierSpecError(f"{spec.source} answers {_not_finite(numbers)}")
    if spec.output == "logits":
        return head
    squashed = SQUASHED.get(_last_operation(values.grad_fn), "")
    shares = bool(numbers.min() >= 0 and numbers.max() <= 1)
    found = _probabilities(head, numbers, squashed, spec.output) if shares or _sums_to(numbers, 100) else ""
    if not found:
        _refuse_others(head, values, numbers, shares, squashed, spec)
        return head
    if _saturated(head, numbers):
        raise ClassifierSpecError(
            f"{spec.source} answers {found}, expected logits, the numbers that go into it: they are exactly 0 or 1, so "
            "that no logarithm brings the logits back and no gradient passes. Leave that last layer out, or wrap the "
            "net so that it returns them. (For heatmaps, detector.classifier.black_box.BlackBox takes probabilities.)"
        )
    if spec.output == "auto":
        _log.warning(
            "%s answers %s: their logarithms are taken for logits. No gradient passes where one is exactly 0 or 1: a "
            'net that returns the logits is better guarded (output = "probabilities" says that this is meant)',
            spec.source,
            found,
        )
    return replace(head, probabilities=True)


def _probabilities(head: Head, numbers: Tensor, squashed: str, output: str) -> str:
    """What kind of probabilities they are; empty where they need not be any."""
    if head.single:
        return f"a probability (of a {squashed or 'sigmoid'})" if squashed or output == "probabilities" else ""
    return "probabilities (as of a softmax)" if _sums_to(numbers, 1) or _sums_to(numbers, 100) else ""


def _refuse_others(
    head: Head, values: Tensor, numbers: Tensor, shares: bool, squashed: str, spec: ClassifierSpec
) -> None:
    """Refuse numbers that are no probabilities of one class among all, where they cannot be logits either."""
    if shares and squashed and not head.single:
        raise ClassifierSpecError(
            f"{spec.source} answers probabilities (of a {squashed}), one for each class by itself, expected logits of "
            "which one class is right: a net with several labels an image (multi-label) cannot be guarded. If exactly "
            "one of the classes is right, leave the sigmoid out; if one of them matters, answer that number alone and "
            f'list two classes, "not {spec.classes[0]}" and "{spec.classes[0]}".'
        )
    if shares and _last_operation(values.grad_fn) not in LINEAR:
        told = "between 0 and 1, and its graph does not show whether that is"
        if head.single:
            raise ClassifierSpecError(
                f"{spec.source} answers one number for two classes, {told} a logit or a probability: write output = "
                '"logits" or output = "probabilities".'
            )
        if numbers.max() > numbers.min():
            _log.warning(
                "%s answers numbers %s what a sigmoid made of each class: they are taken for logits, which is wrong "
                'for a net with several labels an image (output = "logits" says that they are)',
                spec.source,
                told,
            )
    if spec.output == "probabilities":
        low, high = numbers.min().item(), numbers.max().item()
        raise ClassifierSpecError(
            f"{spec.source} answers numbers in {low:.3g} … {high:.3g} that do not sum to 1, and is said to answer "
            'probabilities: write output = "logits" if that is what they are.'
        )


def _sums_to(numbers: Tensor, whole: float) -> bool:
    sums = numbers.sum(1)
    return bool(numbers.min() >= 0 and numbers.shape[1] > 1 and ((sums - whole).abs() <= SUM_TOLERANCE * whole).all())


def _saturated(head: Head, numbers: Tensor) -> bool:
    if head.single:
        return bool(((numbers == 0) | (numbers == 1)).all())
    return bool((numbers.topk(2).values[:, 1] == 0).all())


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


def _last_operation(node: Any) -> str:
    """The name of what made a tensor of this `grad_fn`; of several put together, if they are of one kind."""
    while node is not None and node.name() in PASSED_ON and node.next_functions:
        node = node.next_functions[0][0]
    if node is not None and node.name() in JOINED:
        made = {_last_operation(each) for each, _ in node.next_functions}
        return made.pop() if len(made) == 1 else ""
    return node.name() if node is not None else ""

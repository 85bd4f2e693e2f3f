"""A model that can be asked and not opened: images in, whatever arrays it takes; its answers out as logits.

    images (B, 3, H, W) ─▶ its layout and type, as many at once as it takes ─▶ `answer` ─▶ scores (B, K) ─▶ logits

What ONNX and KServe have in common. Layout and type come from what the model says of itself or from the arguments; what
its scores are, `scores` finds out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from detector.classifier.sources.scores import Scores
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import printable

__all__ = [
    "HIDES",
    "MOST_AT_ONCE",
    "USUAL",
    "Array",
    "AskedArguments",
    "AskedNet",
    "Input",
    "arguments_of",
    "chosen",
    "read_input",
]

Array = NDArray[Any]

MOST_AT_ONCE = 256
USUAL = ("logits", "probabilities", "probs", "output")
"""Of several outputs, the one that is taken."""

_log = logging.getLogger("heatward")


class AskedArguments(BaseModel):
    """What `arguments` may tell of such a model; what is left out is found out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str | None = None
    """Name of the input. Default: the only one."""
    output: str | None = None
    """Name of the output with a score for each class. Default: the only one, or the first of `USUAL`."""
    layout: Literal["nchw", "nhwc"] | None = None
    answers: Literal["logits", "probabilities"] | None = None
    """What the scores are. Default: probabilities where they look like them."""
    batch: int | None = Field(default=None, ge=1)
    """Images at once, at most."""


@dataclass(frozen=True)
class Input:
    """How a model wants its images.

    Attributes:
        name: Of the input.
        layout: Colours first or last.
        dtype: numpy's name of its numbers; of whole numbers it takes 0 … 255.
        batch: Images at once, exactly; None for any number.
        scale: What normalised images are multiplied by: 255 where the model takes whole numbers and images are not
            brought to 0 … 255 already.
    """

    name: str
    layout: Literal["nchw", "nhwc"]
    dtype: str
    batch: int | None
    scale: float = 1.0


HIDES = "a model that can be asked and not opened shows none"


class AskedNet(nn.Module):
    """A model behind `answer`, in the place of a net: normalised images (B, 3, H, W) → logits (B, K), no gradient.

    Args:
        source: What errors call it.
        takes: How it wants images.
        at_once: Images a call, at most.
        answer: Some batches of images → their scores, in order.
        classes: How many.
        answers: What the scores are; None: to be found out by the first of them.
    """

    def __init__(
        self,
        source: str,
        takes: Input,
        at_once: int,
        answer: Callable[[Sequence[Array]], Sequence[Array]],
        classes: int,
        answers: Literal["logits", "probabilities"] | None,
    ) -> None:
        super().__init__()
        self.source, self.takes, self.at_once, self.answer = source, takes, at_once, answer
        self.classes, self.scores = classes, Scores(source, answers)
        if takes.batch:
            _log.info("%s takes batches of %d: others are cut or filled up", source, takes.batch)

    def forward(self, images: Tensor) -> Tensor:
        if not len(images):
            return torch.zeros(0, self.classes, device=images.device)
        size = self.takes.batch or min(self.at_once, len(images))
        array = _as_wanted(images.detach().cpu().numpy(), self.takes)
        parts = [array[start : start + size] for start in range(0, len(array), size)]
        if self.takes.batch:  # the last one is filled up
            parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], size - len(parts[-1]), axis=0)])
        scores = [self._checked(each, len(part)) for each, part in zip(self.answer(parts), parts, strict=True)]
        return self.scores.logits(np.concatenate(scores)[: len(images)]).to(images.device)

    def _checked(self, scores: Array, count: int) -> NDArray[np.float32]:
        """(n, K) of one call, or (n, 1) where one score stands for two classes."""
        scores = np.asarray(scores)
        if scores.dtype.kind != "f":
            raise ClassifierSpecError(
                f"{self.source} answers {scores.dtype}, expected a floating-point score for each class: name another "
                "`output` in the arguments, or leave out an argmax at its end."
            )
        flat = scores.reshape(len(scores), -1) if scores.ndim else scores.reshape(1, 1)
        if self.classes == 2 and flat.shape == (count, 1):
            return flat.astype(np.float32)
        if flat.shape != (count, self.classes):
            raise ClassifierSpecError(
                f"{self.source} answers {scores.shape} for {count} images, expected {(count, self.classes)}: a score "
                f"for each of the {self.classes} classes that the spec lists; name another `output` in the arguments, "
                "or list its classes."
            )
        return flat.astype(np.float32)


def arguments_of(kind: type[Any], spec: ClassifierSpec) -> Any:
    """The arguments of a spec, checked; where they do not say what the answers are, the spec's `output` does.

    Raises:
        ClassifierSpecError: One is unknown, or has a value out of range.
    """
    told = {} if spec.output == "auto" else {"answers": spec.output}
    try:
        return kind.model_validate(told | spec.arguments)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ClassifierSpecError(
            f"{spec.source}: arguments.{name}: {first['msg']} (known: {', '.join(sorted(kind.model_fields))})."
        ) from error


def chosen(wanted: str | None, names: Sequence[str], what: str, source: str, usual: Sequence[str] = ()) -> str:
    """The input or output to use.

    Raises:
        ClassifierSpecError: There is none of that name, or several and nothing says which.
    """
    told = ", ".join(printable(name) for name in names) or "none"
    if wanted is not None:
        if wanted not in names:
            raise ClassifierSpecError(f"{source} has no {what} {printable(wanted)!r}: it has {told}.")
        return wanted
    if len(names) == 1:
        return names[0]
    for name in usual:
        if name in names:
            return name
    raise ClassifierSpecError(f"{source} has {len(names)} {what}s ({told}): name one as arguments.{what}.")


def read_input(
    name: str, shape: Sequence[int | None], dtype: str | None, spec: ClassifierSpec, layout: str | None
) -> Input:
    """How a model wants images, from what it says of its input.

    Args:
        name: Of the input.
        shape: Its sizes; None for any.
        dtype: numpy's name of its numbers; None where they are of another kind.
        spec: What its owner says.
        layout: As the arguments tell.

    Raises:
        ClassifierSpecError: It takes no batch of images of this size, or the layout cannot be known.
    """
    said = f"{spec.source} takes {printable(name)!r} of {_shape(shape)}"
    grey = spec.preprocessing.channel_order == "grey"
    channels, kind = (1, "grey") if grey else (3, "colour")
    if len(shape) != 4:
        raise ClassifierSpecError(
            f"{said}, expected four dimensions: images (batch, {channels}, height, width) or (batch, height, width, "
            f"{channels}). Name another `input` in the arguments, or export the model with a batch dimension."
        )
    if dtype not in ("float32", "float16", "uint8"):
        raise ClassifierSpecError(f"{said} and an unknown type, expected float32 (or float16, or uint8 of 0 … 255).")
    last, first = (*spec.input_size, channels), (channels, *spec.input_size)
    fits = {
        each: all(size in (None, wanted) for size, wanted in zip(shape[1:], sizes, strict=True))
        for each, sizes in (("nchw", first), ("nhwc", last))
    }
    possible = [each for each, fit in fits.items() if fit and layout in (None, each)]
    if not possible:
        as_told = f" as {layout}" * (layout is not None)
        height, width = spec.input_size
        other = "leave it out" if grey else "give it"
        raise ClassifierSpecError(
            f"{said}, which does not fit {kind} images of {height}×{width}{as_told}: check input_size (height, width) "
            f'and arguments.layout; channel_order = "grey" in [classifier.preprocessing] is for one channel, {other}?'
        )
    if len(possible) == 2:
        raise ClassifierSpecError(f'{said}: say arguments.layout = "nchw" or "nhwc".')
    return Input(name, "nchw" if possible[0] == "nchw" else "nhwc", dtype, shape[0], _scale(dtype, spec, said))


def _scale(dtype: str, spec: ClassifierSpec, said: str) -> float:
    """What brings normalised images to the numbers that a model takes.

    Raises:
        ClassifierSpecError: It takes pixels as they are, and the spec would normalise them.
    """
    if dtype != "uint8":
        return 1.0
    mean, std = np.array(spec.preprocessing.mean), np.array(spec.preprocessing.std)
    for scale in (255.0, 1.0):
        if not mean.any() and np.allclose(std * 255, scale, rtol=1e-3):
            return scale
    raise ClassifierSpecError(
        f"{said}, whole numbers, which are pixels of 0 … 255 as they are: leave mean and std out of "
        "[classifier.preprocessing]."
    )


def _as_wanted(images: Array, takes: Input) -> Array:
    array = images if takes.layout == "nchw" else images.transpose(0, 2, 3, 1)
    if takes.dtype == "uint8":
        array = np.rint(array * takes.scale).clip(0, 255)
    return np.ascontiguousarray(array, dtype=takes.dtype)


def _shape(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"

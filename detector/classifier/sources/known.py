"""`ClassifierSource`, with gaps → what its source knows → **`ClassifierSpec`, without**.

What a person writes always wins. An `input_size` that stands without a `preprocessing` means pixels in [0, 1], as it
always has for torchvision and timm; whoever leaves out both gets the model's own. Where the source does not know how
images come to the model's size, it must be given, and colours are the model's own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue, ValidationError

from detector.errors import ClassifierSpecError
from detector.settings import Preprocessing
from detector.spec import ClassifierSource, ClassifierSpec

__all__ = ["Known", "completed", "distinct"]

_log = logging.getLogger("heatward")


@dataclass(frozen=True)
class Known:
    """What a source knows of a classifier.

    Attributes:
        source: By which it can be built without the folder or the hub it came from.
        weights: Where they lie.
        arguments: That it takes to build it.
        input_size: (height, width).
        preprocessing: The model's own, at `input_size`; without one, for any size.
        classes: Of this very head, in the order of the logits.
        told: Where the preprocessing comes from; empty where nobody is to be told.
        why_unknown: Why the source does not know its images.
    """

    source: str
    weights: str | None = None
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    told: str = ""
    why_unknown: str = ""


def completed(described: ClassifierSource, known: Known, classes: Sequence[str] | None) -> ClassifierSpec:
    """The spec that both make together.

    Args:
        described: What a person wrote.
        known: What the source knows.
        classes: Names for where the person gives none.

    Raises:
        ClassifierSpecError: Something is left that nobody knows, or they contradict each other.
    """
    input_size = described.input_size or known.input_size
    if input_size is None:
        raise ClassifierSpecError(
            f"{described.source}: {known.why_unknown or 'nothing tells the size of its images'}: give input_size = "
            "[height, width] and [classifier.preprocessing]."
        )
    names = described.classes or tuple(classes or ()) or known.classes
    if not names:
        raise ClassifierSpecError(
            f"{described.source} does not know the names of its classes: give classes, in the order of the logits."
        )
    values: dict[str, Any] = {
        "source": known.source,
        "weights": known.weights,
        "arguments": known.arguments,
        "output": described.output,
        "input_size": input_size,
        "preprocessing": described.preprocessing or _preprocessing(described, known, input_size),
        "classes": names,
    }
    try:
        return ClassifierSpec(**values)
    except ValidationError as error:
        raise ClassifierSpecError(
            f"{described.source}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from error


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each later one that stands twice with its number, as ImageNet's two cranes in many lists."""
    counted, seen = Counter(names), set[str]()
    found = []
    for index, name in enumerate(names):
        found.append(f"{name} ({index})" if counted[name] > 1 and name in seen else name)
        seen.add(name)
    return tuple(found)


def _preprocessing(described: ClassifierSource, known: Known, input_size: tuple[int, int]) -> Preprocessing:
    if known.preprocessing is None:
        if known.why_unknown:
            raise ClassifierSpecError(f"{described.source}: {known.why_unknown}: give [classifier.preprocessing].")
        return Preprocessing()
    own = _resized(known, input_size)
    if described.input_size is None or known.input_size is None or described.kind == "hf":
        if known.told:
            _log.info("%s: %s: input_size %s, %s", described.source, known.told, input_size, own)
        return own
    _log.warning(
        "%s has an input_size and no preprocessing, so it is given pixels in [0, 1]. Its own is %s: leave input_size "
        "out to have it, or write [classifier.preprocessing]",
        described.source,
        own,
    )
    return Preprocessing()


def _resized(known: Known, input_size: tuple[int, int]) -> Preprocessing:
    """The model's own preprocessing for images of another size: the same part of a photograph is seen."""
    own, size = known.preprocessing, known.input_size
    if own is None or size is None:
        return own or Preprocessing()
    if size == input_size:
        return own
    resize: int | tuple[int, int] | None = None
    if isinstance(own.resize, int):
        resize = max(round(own.resize * input_size[0] / size[0]), *input_size)
    elif own.resize is not None:
        resize = (
            max(round(own.resize[0] * input_size[0] / size[0]), input_size[0]),
            max(round(own.resize[1] * input_size[1] / size[1]), input_size[1]),
        )
    return own.model_copy(update={"resize": resize, "crop": input_size if own.crop is not None else None})

"""The model under guard, as its owner writes it down: in a configuration, and then in a bundle's manifest.

torchvision:resnet18 · timm:NAME · export:model.pt2 · torchscript:model.pt · python:package.module:factory ·
onnx:model.onnx · kserve:host:port/model
"""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, PositiveInt, field_validator, model_validator

from detector.settings import Preprocessing
from detector.text import printable

__all__ = ["KINDS", "ClassifierSource", "ClassifierSpec", "check_classes"]

KINDS = ("torchvision", "timm", "export", "torchscript", "python", "onnx", "kserve")

# Weights come through `weights` alone: these would fetch from the network or read a pickle.
_RESERVED = frozenset(
    {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
)


class ClassifierSource(BaseModel):
    """All of a classifier but the names of its classes.

    Attributes:
        source: "kind:name", see the module's docstring.
        weights: A torchvision weights name ("IMAGENET1K_V1") or a file *.safetensors, *.pt, *.pth.
        arguments: Keyword arguments of the torchvision or timm model, or of the python factory; what to know of an
            onnx or kserve model.
        input_size: (height, width) of the net's input.
        preprocessing: From photograph to net input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    weights: str | None = None
    arguments: dict[str, JsonValue] = {}
    input_size: tuple[PositiveInt, PositiveInt]
    preprocessing: Preprocessing = Preprocessing()

    @field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        kind, _, name = source.partition(":")
        if kind not in KINDS or not name:
            raise ValueError(f'source must be "kind:name" with a kind of {", ".join(KINDS)}; got {source!r}')
        return source

    @field_validator("arguments")
    @classmethod
    def _nothing_reserved(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        reserved = sorted(_RESERVED.intersection(arguments))
        if reserved:
            raise ValueError(f"arguments {reserved} are not allowed: weights are given as `weights`")
        return arguments

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        misfit = self.preprocessing.misfit(self.input_size)
        if misfit:
            raise ValueError(misfit)
        return self

    @property
    def kind(self) -> str:
        return self.source.partition(":")[0]

    @property
    def name(self) -> str:
        return self.source.partition(":")[2]


class ClassifierSpec(ClassifierSource):
    """The model under guard, as its owner describes it.

    Attributes:
        classes: Names, in the order of the logits.
    """

    classes: tuple[str, ...]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(classes)


def check_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The names, if they are at least two and all different.

    Raises:
        ValueError: They are not; names one that stands twice.
    """
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(f"classes must be different names, {printable(twice[0])!r} stands twice")
    if len(classes) < 2:
        raise ValueError(f"classes must be at least two different names, got {len(classes)}")
    return classes

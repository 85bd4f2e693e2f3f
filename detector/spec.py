"""The model under guard, as its owner writes it down: in a configuration, and then in a bundle's manifest.

torchvision:resnet18 · timm:NAME · timm:local-dir:FOLDER · timm:hf-hub:NAME · hf:FOLDER or NAME · export:model.pt2 ·
torchscript:model.pt · python:package.module:factory · onnx:model.onnx · kserve:host:port/model

A person writes a `ClassifierSource` and may leave out what the source knows; `sources.complete` makes it a
`ClassifierSpec`, which says everything and is what a bundle stores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from detector.settings import Preprocessing
from detector.text import printable

__all__ = ["KINDS", "ClassifierSource", "ClassifierSpec", "check_classes"]

KINDS = ("torchvision", "timm", "hf", "export", "torchscript", "python", "onnx", "kserve")
KNOWING = ("torchvision", "timm", "hf")
"""Kinds that know the size and the preprocessing of their images."""

# Weights come through `weights` alone: these would fetch from the network or read a pickle.
_RESERVED = frozenset(
    {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
)
# Wherever they stand in a Hugging Face configuration, these would fetch weights or code, and run it.
_FETCHING = frozenset(
    {
        *("auto_map", "trust_remote_code", "attn_implementation", "_attn_implementation", "experts_implementation"),
        *("quantization_config", "use_pretrained_backbone", "use_kernels", "kernel_config"),
    }
)


class _Described(BaseModel):
    """What both say of a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    weights: str | None = None
    arguments: dict[str, JsonValue] = {}
    output: Literal["auto", "logits", "probabilities"] = "auto"

    @field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        kind, _, name = source.partition(":")
        if kind not in KINDS or not name:
            raise ValueError(f'source must be "kind:name" with a kind of {", ".join(KINDS)}; got {source!r}')
        return source

    @model_validator(mode="after")
    def _nothing_reserved(self) -> Self:
        if reserved := sorted(_RESERVED.intersection(self.arguments)):
            raise ValueError(f"arguments {reserved} are not allowed: weights are given as `weights`")
        fetching = sorted(_FETCHING.intersection(_names(self.arguments))) if self.kind == "hf" else []
        if fetching:
            raise ValueError(
                f"arguments {fetching} are not allowed, for they would fetch weights or code: take them out of the "
                'model\'s config.json, or write a function that builds it, "python:MODULE:FACTORY"'
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an `output` that says nothing, as those who know no such field write and read it."""
        described: dict[str, Any] = serialise(self)
        if described.get("output") == "auto":
            del described["output"]
        return described

    @property
    def kind(self) -> str:
        return self.source.partition(":")[0]

    @property
    def name(self) -> str:
        return self.source.partition(":")[2]


class ClassifierSource(_Described):
    """A classifier as a person writes it down.

    Attributes:
        source: "kind:name", see the module's docstring.
        weights: A torchvision weights name ("IMAGENET1K_V1") or a file *.safetensors, *.pt, *.pth, *.ckpt, *.bin;
            "run.pth#state_dict_ema" takes this entry of a checkpoint.
        arguments: Keyword arguments of the torchvision or timm model, or of the python factory; of a Hugging Face
            model, what replaces entries of its config.json.
        output: What the net answers; "auto" looks: probabilities are known by their sum.
        input_size: (height, width) of the net's input. Default: what the source knows.
        preprocessing: From photograph to net input. Default: what the source knows, where `input_size` is left out,
            too; pixels in [0, 1] otherwise.
        classes: Names, in the order of the logits. Default: what the source knows.
        hub: Whether a name may be fetched from the Hugging Face hub; otherwise it must lie in the local cache.
    """

    input_size: tuple[PositiveInt, PositiveInt] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    hub: bool = False

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else check_classes(classes)

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        if self.input_size is None and self.kind not in KNOWING:
            raise ValueError(f"{self.kind}: does not know its images: give input_size = [height, width]")
        if self.input_size is not None and self.preprocessing is not None:
            _check_fit(self.preprocessing, self.input_size)
        return self


class ClassifierSpec(_Described):
    """A classifier, all of it: `ClassifierSource` with nothing left out.

    Attributes:
        input_size: (height, width) of the net's input.
        preprocessing: From photograph to net input. Default: pixels in [0, 1], resized to the input size.
        classes: Names, in the order of the logits.
    """

    input_size: tuple[PositiveInt, PositiveInt]
    preprocessing: Preprocessing = Preprocessing()
    classes: tuple[str, ...]

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(classes)

    @model_validator(mode="after")
    def _geometry(self) -> Self:
        _check_fit(self.preprocessing, self.input_size)
        return self


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


def _check_fit(preprocessing: Preprocessing, input_size: tuple[int, int]) -> None:
    misfit = preprocessing.misfit(input_size)
    if misfit:
        raise ValueError(misfit)


def _names(value: JsonValue) -> Iterator[str]:
    """Every key, however deep."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)

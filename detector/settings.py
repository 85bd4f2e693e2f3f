"""What people write and bundles store: frozen pydantic models without torch, so a wrong word is answered at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

__all__ = [
    "MOST_CLEARED",
    "EvidenceSettings",
    "NetworkSettings",
    "PatchSettings",
    "Preprocessing",
    "ScoreSettings",
    "StoredSettings",
    "ViewSettings",
]

MOST_CLEARED = 0.85
"""Share of clean images that the glance of a cascade may clear: the largest operating point, 10 %, must lie among those
that go on, and a share is known to a few points only."""
MOST = 1e6
"""Of a weight in a score: no score becomes infinite."""


class Preprocessing(BaseModel):
    """How a photograph becomes the net's input.

    Attributes:
        resize: The shorter side in pixels, or (height, width); None resizes to the input size exactly.
        crop: Centre crop after resizing; it must be the input size. None means the input size.
        interpolation: Of the resize, antialiased (except "nearest").
        mean: Subtracted per channel, in [0, 1] units, in `channel_order`; a list of one number stands for all channels.
        std: Divided by per channel, likewise.
        channel_order: What the net was trained on; "grey" gives it one channel, the luma of ITU-R BT.601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["RGB", "BGR", "grey"] = "RGB"

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _for_all_channels(cls, value: Any) -> Any:
        return tuple(value) * 3 if isinstance(value, list | tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _one_channel(self) -> Self:
        if self.channel_order == "grey" and (len({*self.mean}) > 1 or len({*self.std}) > 1):
            raise ValueError(
                f'channel_order = "grey" has one channel, got mean {self.mean} and std {self.std}: give one number each'
            )
        return self

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"every std must be above 0, got {std}")
        return std

    def misfit(self, input_size: tuple[int, int]) -> str | None:
        """What is wrong with these settings for a net of `input_size` (height, width); None when they fit."""
        crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if crop is not None and crop != input_size:
            return f"crop {crop} must equal input_size {input_size}"
        resize = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if resize is not None and (resize[0] < input_size[0] or resize[1] < input_size[1]):
            return f"resize {self.resize} leaves less than input_size {input_size}"
        return None


class StoredSettings(BaseModel):
    """Settings of which those that came `LATER` are written only where they are used.

    What does not use them is written as before there were any: with the same digests, and readable by older releases.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in unused}


class ViewSettings(StoredSettings):
    """Which views are taken; each costs one forward pass an image."""

    LATER = ("jpeg",)

    noise: tuple[Annotated[float, Field(ge=0)], ...] = (2.0, 4.0, 8.0, 16.0)
    """Gaussian noise, sigma in 1/255."""
    noise_draws: int = Field(default=2, ge=1)
    """Noise patterns of every sigma."""
    flip: bool = True
    """Mirror left to right."""
    shifts: tuple[tuple[int, int], ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))
    """(down, right) in steps of 1/32 of the side; edges are repeated."""
    blur: bool = True
    """3×3 binomial blur."""
    rescale: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.875,)
    """Shrink by this factor and enlarge again."""
    jpeg: tuple[Annotated[int, Field(ge=1, le=100)], ...] = ()
    """Compress to a JPEG of this quality, colours 4:2:0: attacks that arrive in a JPEG file show under it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the views, in the order of the evidence; two of one name are one view."""
        return (
            *(f"noise-{sigma:g}-{draw}" for sigma in self.noise for draw in range(self.noise_draws)),
            *(["flip"] if self.flip else []),
            *(f"shift{down:+d}{right:+d}" for down, right in self.shifts),
            *(["blur"] if self.blur else []),
            *(f"rescale-{factor:g}" for factor in self.rescale),
            *(f"jpeg-{quality}" for quality in self.jpeg),
        )

    def places(self, names: Iterable[str]) -> tuple[int, ...]:
        """Of some views among all, ascending: what the glance of a cascade takes.

        Raises:
            ValueError: There is no such view, or none is left for the full look.
        """
        there, wanted = list(dict.fromkeys(self.names)), set(names)
        if unknown := sorted(wanted.difference(there)):
            raise ValueError(f"the evidence has no view {unknown[0]!r}; it has {', '.join(there) or 'none'}")
        if there and len(wanted) == len(there):
            raise ValueError("the glance takes every view of the evidence: leave at least one to the full look")
        return tuple(at for at, name in enumerate(there) if name in wanted)


class EvidenceSettings(StoredSettings):
    """What is looked at. Part of the bundle: training and serving must look at the same things."""

    LATER = ("spread",)

    layers: tuple[str, ...] = ()
    """Depths of channel attribution; empty: four, spread evenly."""
    candidates: int = Field(default=10, ge=2)
    """Classes looked at when there are more than 16: the prediction and those that witness and views propose."""
    witness_noise: float = Field(default=8.0, ge=0)
    """Gaussian noise on the mirrored image that the witness sees, sigma in 1/255."""
    spread: bool = False
    """Also how unevenly each channel is active over the image, and the witness's channels: no pass more, and what
    is left of an attack after compression shows a little better."""
    views: ViewSettings = ViewSettings()
    forward_batch: int = Field(default=256, ge=1)
    """Images of one forward pass; bounds memory."""


class PatchSettings(BaseModel):
    """Which patches are looked for, and how. Part of the bundle: its clean scores belong to these masks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    area: float = Field(default=0.02, gt=0, le=0.25)
    """Share of the image under a square that the largest patch fits into, anywhere in it."""
    masks: int = Field(default=36, ge=4)
    """At most so many, a square number: rows times columns. Each costs a forward pass; fewer are larger."""

    @field_validator("masks")
    @classmethod
    def _square(cls, masks: int) -> int:
        side = math.isqrt(masks)
        if side * side != masks:
            raise ValueError(f"expected a square number, such as {side * side} or {(side + 1) ** 2}, got {masks}")
        return masks


class ScoreSettings(StoredSettings):
    """How an attack score is made of what the networks say. Part of the bundle: its calibration belongs to it."""

    LATER = ("floor_weight",)

    novelty_weight: float = Field(default=0.1, ge=0, le=MOST)
    """Of the novelty, beside −log P(clean). Chosen on left-out families (docs/experiments.md)."""
    margin_share: float = Field(default=0.3, ge=0, le=MOST)
    """Of the margin of probabilities in `doubt`, beside the witness."""
    first_candidates: int = Field(default=3, ge=1)
    """Candidates whose answers count for novelty."""
    quantiles: int = Field(default=256, ge=2)
    """Of clean images, for the share that has a higher number."""
    floor_weight: float = Field(default=0, ge=0, le=MOST)
    """Of how rarely a witness supports the prediction as little, as a score beside that of the networks: the greater
    counts. 0: that of the networks alone."""


class NetworkSettings(BaseModel):
    """Size of the heatmap classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    width: int = Field(default=256, ge=8)
    """Hidden width of the image token."""
    token: int = Field(default=64, ge=8)
    """Width of a class token; a multiple of `heads`."""
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    ensemble: int = Field(default=3, ge=1)
    """Networks trained from different seeds and averaged."""
    score: ScoreSettings = ScoreSettings()
    """How their answers become an attack score."""

    @model_validator(mode="after")
    def _heads_share_a_token(self) -> Self:
        if self.token % self.heads:
            raise ValueError(f"token must be a multiple of heads, got {self.token} and {self.heads}")
        return self

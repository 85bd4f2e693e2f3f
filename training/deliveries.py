"""How images reach the classifier, as people write it: tables of the configuration, frozen pydantic models.

    [[deliveries]]
    label = "jpeg"
    steps = [{ jpeg = { uniform = [60, 98] }, subsampling = ["4:4:4", "4:2:2", "4:2:0"] }]

An image under label `pgd-8` is then also made under `pgd-8@jpeg`, and a clean one under `clean@jpeg`. A number may be
a table, `{ uniform = [60, 98] }` or `{ choice = [75, 90] }`, drawn anew for each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_serializer, model_validator

from detector.text import nearest
from training.parameters import ParameterTable, read_parameter
from training.settings import Name, Settings

__all__ = ["AT", "BOUNDS", "DeliverySpec", "Step", "StepKind", "Subsampling", "check_deliveries"]

AT = "@"
"""Stands between what was made and how it was delivered."""
StepKind = Literal["jpeg", "webp", "resize", "crop", "noise"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
BOUNDS: dict[StepKind, tuple[float, float]] = {
    "jpeg": (1, 100),
    "webp": (1, 100),
    "resize": (0.1, 8),
    "crop": (0.5, 1),
    "noise": (0, 64 / 255),
}
"""Smallest and largest number of each kind."""


class Step(Settings):
    """One change on the way: exactly one of the first five. The image keeps its size."""

    jpeg: JsonValue = None
    """Quality, 1 to 100, of a JPEG file."""
    webp: JsonValue = None
    """Quality, 1 to 100, of a lossy WebP file."""
    resize: JsonValue = None
    """Resized so many times, .1 to 8, and back."""
    crop: JsonValue = None
    """A part of so many sides, .5 to 1, at a place that is drawn, and resized to the whole."""
    noise: JsonValue = None
    """Gaussian noise of this standard deviation, as of a photographed or captured screen: 0 to `"64/255"`."""
    subsampling: Annotated[tuple[Subsampling, ...], Field(min_length=1)] = ("4:2:0",)
    """Of the colours of a JPEG file: one of these, drawn for each image."""

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        given = self.model_fields_set - {"subsampling"}
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(BOUNDS)} in a step, got {', '.join(sorted(given)) or 'none'}")
        if "subsampling" in self.model_fields_set and given != {"jpeg"}:
            raise ValueError(f"subsampling belongs to jpeg, got it with {self.kind}: leave it out")
        low, high = BOUNDS[self.kind]
        for number in _numbers(self.amount):
            if not low <= number <= high:
                raise ValueError(f"{self.kind}: expected a number from {low:g} to {high:.3g}, got {number:g}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        """Only what was given: a step that says None of other kinds could not be read again, by a worker elsewhere."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @property
    def kind(self) -> StepKind:
        return next(kind for kind in BOUNDS if kind in self.model_fields_set)

    @property
    def amount(self) -> ParameterTable | float:
        """A number, or what it is drawn from."""
        try:
            amount = read_parameter(getattr(self, self.kind))
        except ValueError as error:
            raise ValueError(f"{self.kind}: {error}") from error
        if isinstance(amount, ParameterTable):
            return amount
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise ValueError(f"{self.kind}: expected a number or a table {{ uniform = [low, high] }}, got {amount!r}")
        return amount


class DeliverySpec(Settings):
    """One way in which images reach the classifier."""

    label: Name
    """A unique name, e.g. `jpeg90`; stands behind the `@`."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    """What happens on the way, in this order."""
    of: tuple[Name, ...] | None = None
    """Labels of the attacks that are delivered so. Default: all. Clean images always are."""
    native: bool = False
    """True: happens to photographs at their own size, before they are resized for the classifier; of native attacks."""
    train: bool = True
    """False: made for the test split only. Otherwise also learnt from, and thresholds come from such images, too."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many source images of each split."""


def check_deliveries(deliveries: Sequence[DeliverySpec], attacks: Mapping[str, tuple[str | None, bool]]) -> None:
    """Say what does not fit together.

    Args:
        deliveries: All of a job.
        attacks: Label of each attack → the delivery that it foresees, and whether it is native.

    Raises:
        ValueError: A label is used twice, a delivery is of an attack that is not there, or an attack foresees one that
            is not there or never takes it, or a native delivery is of an attack that is not.
    """
    ways = {delivery.label: delivery for delivery in deliveries}
    labels = [delivery.label for delivery in deliveries]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"deliveries: label {sorted(twice)[0]!r} is used twice; labels must be unique")
    for delivery in deliveries:
        if unknown := sorted(set(delivery.of or ()) - set(attacks)):
            raise ValueError(
                f"deliveries: {delivery.label!r} is of attack {unknown[0]!r}, and there is none"
                f"{nearest(unknown[0], list(attacks)) or '; attacks: ' + ', '.join(attacks)}"
            )
        at_size = [label for label in delivery.of or () if not attacks[label][1]]
        if delivery.native and at_size:
            raise ValueError(
                f"deliveries: {delivery.label!r} is native and of attack {at_size[0]!r}, which is made at the "
                f"classifier's size: give {at_size[0]!r} native = true, or take it out of of"
            )
    for attack, (through, native) in attacks.items():
        if through is None:
            continue
        if through not in ways:
            known = f"; deliveries: {', '.join(labels)}" if labels else ": write [[deliveries]] with this label"
            raise ValueError(
                f"attack {attack!r} is made through delivery {through!r}, and there is none"
                f"{nearest(through, labels) or known}"
            )
        if ways[through].native and not native:
            raise ValueError(f"attack {attack!r} is made through {through!r}, which is native: give it native = true")
        of = ways[through].of
        if of is not None and attack not in of:
            raise ValueError(
                f"attack {attack!r} is made through delivery {through!r}, which is of {', '.join(of) or 'no attack'}: "
                f"add {attack!r} to its of, or leave of out"
            )


def _numbers(amount: ParameterTable | Any) -> list[float]:
    """All numbers of a table."""
    if not isinstance(amount, ParameterTable):
        return [float(amount)]
    if amount.of_eps is not None:
        raise ValueError(
            "of_eps is a share of epsilon, and a delivery has none: write a number or { uniform = [low, high] }"
        )
    ends = [_numbers(each) for each in amount.choice or amount.uniform or ()]
    if amount.uniform is not None and (low := max(ends[0])) > (high := min(ends[-1])):
        raise ValueError(f"uniform = [low, high] with low {low:g} above high {high:g}: write the smaller one first")
    return [number for end in ends for number in end]

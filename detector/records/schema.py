"""What is kept of an image that was judged, and what somebody knows about it: **`Record`** and **`Label`**.

Their fields are the columns of the shards, in this order. Columns are only ever added, and None in older shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa

__all__ = ["Label", "Record", "Truth", "schema_of"]


class Truth(StrEnum):
    """What somebody knows about a recorded image."""

    FALSE_ALARM = "false-alarm"
    """It was flagged and is clean."""
    ATTACK = "attack"
    """It is attacked, flagged or not."""
    TRUE_LABEL = "true-label"
    """What it shows; whether it was attacked is left open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image that was judged."""

    record_id: str
    time: datetime
    """When it was answered, by the server's clock, in UTC."""
    request_id: str
    """The image's, or its call's where it had none."""
    call_id: str
    client: str
    """The name of the caller's token, or the caller's address."""
    model_name: str
    model_version: str
    bundle_sha256: str
    """Of the bundle's manifest, which holds the sha256 of every other file."""
    input_sha256: str
    """Of the file as it came, or of the pixels (H, W, 3) where it came as pixels."""
    input_bytes: int
    height: int
    """Of the decoded image, before it was resized for the classifier."""
    width: int
    attacked: bool
    false_positive_rate: float
    """At which it was decided."""
    p_value: float
    attack_score: float
    predicted: int
    predicted_name: str
    probability: float
    recovered: int
    """Given that it was attacked: the likeliest class before; -1 where there is none."""
    recovered_name: str
    corrected: int
    """The likeliest class over all."""
    corrected_name: str
    error_rate: float | None = None
    """The smallest promised error rate at which `predicted` is accepted; None where none is promised."""
    calibration_group: str | None = None
    """The clean images that `p_value` ranks it among; None where all are one group."""
    tail_estimate: float | None = None
    """How rare such a score may be among clean images, where it is higher than all of theirs; None elsewhere."""
    patch_p_value: float | None = None
    """That no patch made the prediction; None where nobody asked for that."""
    evidence: bytes | None = None
    """What the heatmap network read, and the heatmap, as a safetensors file; None where it was not to be recorded."""
    image: bytes | None = None
    """The file as it came, a PNG of what came as pixels; None where it was not to be recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What somebody knows about a recorded image."""

    record_id: str
    truth: str
    """One of `Truth`."""
    true_label: str = ""
    """The class' name, for `Truth.TRUE_LABEL`."""
    by: str
    """Who says so: the name of a token, or an address."""
    time: datetime

    def contradicts(self, other: Label) -> bool:
        """Whether both are about the same question and not both can be right."""
        if Truth.TRUE_LABEL in (self.truth, other.truth):
            return self.truth == other.truth and self.true_label != other.true_label
        return self.truth != other.truth


ARROW = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", "UTC"),
}


def schema_of(kind: type[Record] | type[Label]) -> pa.Schema:
    """The columns of its shards."""
    return pa.schema([_field(name, hint) for name, hint in get_type_hints(kind).items()])


def _field(name: str, hint: Any) -> pa.Field:
    kinds = set(get_args(hint) or (hint,))
    (kind,) = kinds - {NoneType}
    return pa.field(name, ARROW[kind], nullable=NoneType in kinds)

"""What the client answers with: frozen dataclasses, so that no caller handles protobuf messages.

Units and ranges are those of `v1/detection.proto`, where each field is explained at length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heatward.errors import DetectionError, Violation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CalibrationGroup",
    "CascadeInfo",
    "ClassifierInfo",
    "DetectorInfo",
    "Failure",
    "Heatmap",
    "Label",
    "Limits",
    "MeasuredRates",
    "OperatingPoint",
    "PatchInfo",
    "TailEstimate",
    "Timings",
    "Verdict",
]


@dataclass(frozen=True)
class Label:
    """One class of the classifier with its probability in [0, 1]."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Heatmap:
    """How strongly each place of the image speaks for the predicted class: signed, not rescaled.

    `data` holds height × width little-endian float32, row by row from the top left.
    """

    height: int
    width: int
    data: bytes

    def rows(self) -> list[list[float]]:
        """The map as `height` lists of `width` numbers; needs nothing installed."""
        numbers = struct.unpack(f"<{self.height * self.width}f", self.data)
        return [list(numbers[row * self.width : (row + 1) * self.width]) for row in range(self.height)]

    def to_numpy(self) -> NDArray[Any]:
        """The map as a float32 array, (height, width). Needs numpy."""
        import numpy as np

        return np.frombuffer(self.data, dtype="<f4").reshape(self.height, self.width)


@dataclass(frozen=True)
class Timings:
    """Where the time went on the server, in milliseconds, and how many images shared the batch."""

    queue_ms: float
    decode_ms: float
    compute_ms: float
    total_ms: float
    batch_size: int


@dataclass(frozen=True)
class TailEstimate:
    """How rare a score is that is higher than those of all clean calibration images: an estimate, no promise."""

    probability: float
    """At most 1 / (n + 1)."""
    low: float
    """Of the 95 % interval."""
    high: float


@dataclass(frozen=True)
class Verdict:
    """Attacked or not, how sure, and what the image showed before the attack.

    A server may tell a caller less (its setting `disclosure`): attacked or not and no more, or only what the classifier
    says. What it does not tell is None, or an empty tuple.
    """

    attacked: bool | None
    """`p_value <= false_positive_rate`. None, which is not "clean": the server does not tell."""
    p_value: float | None
    """Share of clean calibration images at least as suspect as this one, in (0, 1]."""
    attack_score: float | None
    """Larger is more suspect; compare it only between answers of the same `detector_version`. Below 0 where the first
    look of a cascade cleared the image."""
    false_positive_rate: float | None
    """The rate at which `attacked` was decided: yours, or the server's, or the next of few below yours where the server
    tells no p-value."""
    predicted: Label
    """The classifier's answer for the image as it is."""
    top: tuple[Label, ...]
    """The classifier's most probable labels, best first."""
    recovered: tuple[Label, ...]
    """Given an attack: what the image showed before, best first, never `predicted`; of use where `attacked`."""
    corrected: Label | None
    """Attacked or not: the likeliest label. `predicted` where a false alarm is likelier; the one to go on with."""
    timings: Timings | None
    detector_version: str
    request_id: str = ""
    error_rate: float | None = None
    """The smallest promised share of wrong predictions among accepted ones at which `predicted` is still accepted, in
    (0, 1]; 1: at none. None where the detector promises nothing."""
    reliable: bool | None = None
    """`error_rate <= max_error_rate`; None where no `max_error_rate` was asked for, or an older server answered."""
    heatmap: Heatmap | None = None
    """Set where `heatmap="float"` was asked for."""
    heatmap_png: bytes | None = None
    """A PNG file, set where `heatmap="png"` was asked for."""
    tail_estimate: TailEstimate | None = None
    """Set where `p_value` is the smallest there is and the detector has a tail; `attacked` knows nothing of it."""
    calibration_group: str = ""
    """The clean images that `p_value` ranks it among, by predicted class; "" where all are one group."""
    patch_p_value: float | None = None
    """Share of clean calibration images whose prediction some mask contradicts at least as strongly, in (0, 1]. None
    where `look_for_patches` was not asked for, or an older server answered."""
    patched: bool | None = None
    """`patch_p_value <= false_positive_rate`; `attacked` knows nothing of it."""


@dataclass(frozen=True)
class Failure:
    """Why one image of a batch or a stream has no verdict; its neighbours are unharmed."""

    code: str
    """Name of the gRPC status code, e.g. "INVALID_ARGUMENT"."""
    message: str
    violations: tuple[Violation, ...] = ()
    """The fields that were wrong."""
    retry_after_s: float | None = None
    """How long to wait before a retry, where the server says so."""
    request_id: str = ""

    def error(self) -> DetectionError:
        """The failure as an exception, for callers who prefer to raise it."""
        return DetectionError(self.code, self.message, self.violations, self.retry_after_s)


@dataclass(frozen=True)
class ClassifierInfo:
    """The classifier under guard."""

    source: str
    classes: tuple[str, ...]
    fingerprint: str
    input_height: int
    input_width: int


@dataclass(frozen=True)
class OperatingPoint:
    """At this false-positive rate, an image is flagged when its attack_score is at least `threshold`."""

    false_positive_rate: float
    threshold: float


@dataclass(frozen=True)
class CalibrationGroup:
    """Clean images that images of one predicted class are ranked among."""

    name: str
    """The class; "*": all classes that had too few images for a group of their own."""
    size: int
    operating_points: tuple[OperatingPoint, ...] = ()


@dataclass(frozen=True)
class CascadeInfo:
    """How many clean images a first look clears; the others cost several times as much."""

    share_asked: float
    share_cleared: float
    """Of the clean images of the calibration."""


@dataclass(frozen=True)
class MeasuredRates:
    """How the detector did against one attack on held-out images; None where it was not measured."""

    attack: str
    auroc: float | None
    tpr_at_1_percent: float | None
    tpr_at_5_percent: float | None
    recovery: float | None
    images: int | None = None
    """How many attacked images the rates rest on; of fewer than 30 they mean little."""


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    max_image_bytes: int
    max_image_pixels: int
    max_batch: int
    max_top_k: int
    max_message_bytes: int


@dataclass(frozen=True)
class PatchInfo:
    """The patches that are looked for."""

    area: float
    """Share of the image under the largest one, as it was asked for."""
    side: int
    """Sides of the square that it fits into, in pixels of the classifier's input."""
    masks: int
    """How many: forward passes of the classifier."""


@dataclass(frozen=True)
class DetectorInfo:
    """What a server has loaded. What it does not tell a caller (`Verdict`) is empty, None or 0."""

    name: str
    version: str
    server_version: str
    classifier: ClassifierInfo
    evidence: tuple[str, ...]
    heatmap_formats: tuple[str, ...]
    """What `heatmap=` accepts on this server: "float", "png"."""
    families: tuple[str, ...]
    default_false_positive_rate: float
    calibration_size: int
    smallest_false_positive_rate: float
    """1 / (n + 1) for n calibration images, of the smallest group if any: the smallest rate that may be asked for."""
    operating_points: tuple[OperatingPoint, ...]
    measured: tuple[MeasuredRates, ...]
    limits: Limits
    smallest_error_rate: float | None = None
    """The smallest `max_error_rate` that may be asked for; None where none may."""
    calibration_groups: tuple[CalibrationGroup, ...] = ()
    """Empty where all calibration images are one group."""
    has_tail: bool = False
    """Whether verdicts have a `tail_estimate`."""
    cascade: CascadeInfo | None = None
    """None where every image is looked at in full, or an older server answered."""
    patches: PatchInfo | None = None
    """What `look_for_patches` looks for; None where it may not be asked for."""

"""Warm detectors → **a `ServedModel`**: what the server knows of a bundle that is loaded, whatever the protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from detector.detector import Detector
from detector.errors import CalibrationError
from detector.scoring.calibration import Calibration
from server.models.latency_model import LatencyModel

__all__ = ["ServedModel", "WarmDetectors"]

log = logging.getLogger("heatward.models")

PREFERRED_RATE = 0.01


WarmDetectors = tuple[tuple[Detector, ...], LatencyModel]
"""The same detector on each device, and what its batches cost on the first."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A detector that is ready to serve."""

    name: str
    """The bundle's."""
    version: str
    """Changes with the bundle's content: the beginning of `Manifest.digest`."""
    detectors: tuple[Detector, ...]
    """The same one on each device, in the order of the engines."""
    latency: LatencyModel
    """Of the first device; the others are taken to be like it."""
    default_rate: float
    """False-positive rate where a request names none."""
    calibration_size: int
    """Clean images that the detector was calibrated on."""
    looking_for_patches: ServedModel | None = None
    """The same one, at the cost of looking for patches as well; None where the bundle was not made for that."""

    @classmethod
    def of(
        cls,
        detectors: tuple[Detector, ...],
        latency: LatencyModel,
        name: str,
        rate: float | None = None,
        looking_for_patches: WarmDetectors | None = None,
    ) -> ServedModel:
        """Describes what was loaded.

        Args:
            detectors: One for each device.
            latency: What their batches cost.
            name: The bundle's name.
            rate: The configured false-positive rate; None: the usual one.
            looking_for_patches: The same detectors, that look for patches as well, and what their batches cost.

        Raises:
            CalibrationError: The configured rate is smaller than the calibration can promise.
        """
        detector = detectors[0]
        content = detector.manifest.digest if detector.manifest else ""
        version = (content or detector.classifier.fingerprint)[:16]
        default_rate = _default_rate(detector.scarcest, rate)
        found = cls(name, version, detectors, latency, default_rate, len(detector.calibration.scores))
        if looking_for_patches is None:
            return found
        slower, cost = looking_for_patches
        return replace(found, looking_for_patches=replace(found, detectors=slower, latency=cost))

    @property
    def detector(self) -> Detector:
        return self.detectors[0]

    @cached_property
    def fewest_ranked(self) -> int:
        """Clean images that p-values are ranks among: all of them, or those of the smallest group."""
        groups = self.detector.groups
        return min(groups.sizes) if groups else self.calibration_size

    @property
    def smallest_rate(self) -> float:
        """The smallest false-positive rate that the calibration can promise."""
        return 1 / (self.fewest_ranked + 1)

    @property
    def smallest_error_rate(self) -> float | None:
        """The smallest share of wrong predictions among accepted ones that can be promised; None: none is."""
        reliability = self.detector.reliability
        return None if reliability is None or reliability.smallest_rate >= 1 else reliability.smallest_rate

    @cached_property
    def classes(self) -> Sequence[str]:
        return self.detector.classifier.classes

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.detector.classifier.input_size

    @cached_property
    def image_bytes(self) -> int:
        """Of an image that waits for the engine: 8 bits a colour."""
        return 3 * self.input_size[0] * self.input_size[1]

    @cached_property
    def bundle_sha256(self) -> str:
        """Of the bundle's manifest, which holds the sha256 of every other file; "" where there is none."""
        return self.detector.manifest.digest if self.detector.manifest else ""

    @property
    def source(self) -> str:
        """Where the classifier came from; "" where that is not known."""
        manifest = self.detector.manifest
        return manifest.classifier.source if manifest else ""

    def label(self, index: int) -> str:
        """The name of a class; "" where it has none."""
        return self.classes[index] if index < len(self.classes) else ""


def _default_rate(calibration: Calibration, configured: float | None) -> float:
    if configured is not None:
        try:
            calibration.threshold(configured)
        except CalibrationError as error:
            raise CalibrationError(f"false_positive_rate = {configured} cannot be promised: {error}") from error
        return configured
    rate = min(rate for rate in calibration.operating_points() if rate >= PREFERRED_RATE)
    if rate > PREFERRED_RATE:
        log.warning(
            "too few calibration images for the usual false-positive rate",
            extra={"images": len(calibration.scores), "usual": PREFERRED_RATE, "default": rate},
        )
    return rate

"""What the heatmap network reads: images in, `Evidence` out."""

from detector.evidence.extractor import ALL_CLASSES_UP_TO, CONSTANTS, EvidenceExtractor, EvidenceSettings
from detector.evidence.groups import (
    CLASS_MAPS,
    MARGIN_MAPS,
    PER_CANDIDATE,
    PER_IMAGE,
    Evidence,
    EvidenceShape,
)

__all__ = [
    "ALL_CLASSES_UP_TO",
    "CLASS_MAPS",
    "CONSTANTS",
    "MARGIN_MAPS",
    "PER_CANDIDATE",
    "PER_IMAGE",
    "Evidence",
    "EvidenceExtractor",
    "EvidenceSettings",
    "EvidenceShape",
]

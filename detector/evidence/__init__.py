"""What the heatmap network reads: images in, `Evidence` out."""

from detector.evidence.extractor import (
    ALL_CLASSES_UP_TO,
    CONSTANTS,
    DIVERGENCE,
    Evidence,
    EvidenceExtractor,
    EvidenceSettings,
    EvidenceShape,
)

__all__ = [
    "ALL_CLASSES_UP_TO",
    "CONSTANTS",
    "DIVERGENCE",
    "Evidence",
    "EvidenceExtractor",
    "EvidenceSettings",
    "EvidenceShape",
]

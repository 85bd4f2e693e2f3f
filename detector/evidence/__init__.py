"""What the heatmap network reads: images in, `Evidence` out."""

from detector.evidence.extractor import ALL_CLASSES_UP_TO, CONSTANTS, EvidenceExtractor, EvidenceSettings, hidden_by
from detector.evidence.glance import Glance
from detector.evidence.groups import (
    PER_CANDIDATE,
    PER_IMAGE,
    Evidence,
    EvidenceShape,
)

__all__ = [
    "ALL_CLASSES_UP_TO",
    "CONSTANTS",
    "PER_CANDIDATE",
    "PER_IMAGE",
    "Evidence",
    "EvidenceExtractor",
    "EvidenceSettings",
    "EvidenceShape",
    "Glance",
    "hidden_by",
]

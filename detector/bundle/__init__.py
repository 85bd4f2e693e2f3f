"""The artefact between training and serving: a `Bundle` in, one `.heatward` file out, and back."""

from detector.bundle.bundle import (
    EMBEDDED,
    FORMAT,
    SCHEMA_VERSION,
    Bundle,
    Manifest,
    load_bundle,
    read_manifest,
    save_bundle,
)
from detector.bundle.signing import sign_bundle, verify_bundle

__all__ = [
    "EMBEDDED",
    "FORMAT",
    "SCHEMA_VERSION",
    "Bundle",
    "Manifest",
    "load_bundle",
    "read_manifest",
    "save_bundle",
    "sign_bundle",
    "verify_bundle",
]

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

__all__ = ["EMBEDDED", "FORMAT", "SCHEMA_VERSION", "Bundle", "Manifest", "load_bundle", "read_manifest", "save_bundle"]

"""What a promoted bundle says of its making: a job and a comparison in, entries of the manifest's provenance out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from detector.bundle import Manifest
from training.config import TrainingConfig
from training.deliveries import AT
from training.job import Job
from training.retraining.comparison import Comparison
from training.shards import digest

__all__ = ["attacks_in", "images_of", "lineage", "reported_in"]

PLACES: Any = {
    **dict.fromkeys(("work", "out", "threads", "device"), True),
    "images": {"source", "test_source", "calibrate_source", "fit_sources", "root"},
    "classifier": {"weights", "labels"},
    "witness": {"weights", "labels"},
}
"""Settings that say where things lie and how fast it goes, not what is made; images and weights have digests."""
ROOT = Path(__file__).parents[2]
PRODUCT = ("detector", "training")


def lineage(job: Job, comparison: Comparison, run: str, reported: Sequence[str]) -> dict[str, Any]:
    """Parent, data, reported attacks, recipe, code, comparison; the seed and what was measured stand beside them."""
    return {
        "parent": comparison.champion,
        "data": {split: images.digest(0, len(images)) for split, images in job.splits.items()},
        "reported": list(reported),
        "recipe": recipe_of(job.config),
        "code": code_digest(),
        "run": run,
        **({} if job.start is None else {"warm_epochs": job.epochs}),
        "compared": comparison.model_dump(mode="json", include={"rate", "tolerance", "rows", "on_old", "on_new"}),
    }


def recipe_of(config: TrainingConfig) -> str:
    """Digest of the settings that decide the result."""
    return digest(config.model_dump(mode="json", exclude=PLACES))


@cache
def code_digest() -> str:
    """Digest of the code that decides it: a version number does not tell two checkouts apart."""
    paths = sorted(path for name in PRODUCT for path in (ROOT / name).rglob("*.py"))
    return digest([[path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")] for path in paths])


def images_of(manifest: Manifest) -> Any:
    """Tells whether two bundles were made from the same images."""
    return manifest.provenance.get("images_sha256")


def reported_in(manifest: Manifest) -> set[str]:
    """Identities of the reported attacks that there were when a bundle was promoted."""
    listed = manifest.provenance.get("reported")
    return {str(each) for each in (listed if isinstance(listed, list) else [])}


def attacks_in(manifest: Manifest) -> dict[str, str]:
    """Digest of what an attack does → its label, of every attack that a bundle was trained or measured with."""
    found: dict[str, str] = {}
    ways = _listed(manifest, "deliveries")
    for each in _listed(manifest, "attacks"):
        made, label = [each.get("name"), each.get("parameters")], str(each.get("label"))
        found[digest(made)] = label
        for way in ways:
            if way.get("of") is None or label in way["of"]:
                found[digest([*made, way.get("steps")])] = f"{label}{AT}{way.get('label')}"
    return found


def _listed(manifest: Manifest, name: str) -> list[dict[str, Any]]:
    listed = manifest.provenance.get(name)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []

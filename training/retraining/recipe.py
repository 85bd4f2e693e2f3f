"""What a bundle knows of its making, as settings: a bundle and a folder in, the tables of a configuration out.

Of the images a bundle knows only how many there were. Its witness goes into the folder as a file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import save

from detector.bundle import Bundle
from detector.classifier import load_classifier
from detector.errors import BundleError
from detector.files import write_file

__all__ = ["recipe_in"]

WITNESS = "witness.safetensors"
NEEDED = ("attacks", "fit", "twins")


def recipe_in(bundle: Bundle, folder: Path, allow: Collection[str], *, new_source: bool = False) -> dict[str, Any]:
    """Classifier (without its weights), witness, attacks to learn from, twins, evidence and fit.

    Args:
        bundle: Whose.
        folder: Where the witness's weights go.
        allow: Modules that a `python:` classifier or witness may come from.
        new_source: Whether the classifier's source is given elsewhere: its arguments are then not the bundle's.

    Raises:
        BundleError: It does not say what it was made with.
        ClassifierSpecError: Classifier or witness cannot be built, or comes from a module that is not allowed.
    """
    manifest = bundle.manifest
    known: Any = manifest.provenance
    if missing := [name for name in NEEDED if not known.get(name)]:
        raise BundleError(
            f"the bundle does not say what it was made with (no {', '.join(missing)} in its manifest): train one for "
            "the new classifier with heatward train"
        )
    recipe: dict[str, Any] = {
        "classifier": manifest.classifier.model_dump(mode="json"),
        "attacks": [each for each in known["attacks"] if each.get("train", True)],
        "twins": {"sizes": known["twins"]},
        "evidence": dict(manifest.evidence),
        "fit": known["fit"],
    }
    if new_source:
        recipe["classifier"] = {name: recipe["classifier"][name] for name in ("classes", "input_size", "preprocessing")}
    else:
        load_classifier(manifest.classifier, state_dict=bundle.classifier_weights, allow=allow)
    if manifest.witness is not None:
        load_classifier(manifest.witness, state_dict=bundle.witness_weights, allow=allow)  # says what is wrong with it
        recipe["witness"] = manifest.witness.model_dump(mode="json")
        if bundle.witness_weights is not None:
            write_file(folder / WITNESS, save(bundle.witness_weights))
            recipe["witness"]["weights"] = str(folder / WITNESS)
    return recipe

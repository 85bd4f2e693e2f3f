"""What a bundle knows of its making, as settings: a bundle and a folder in, the tables of a configuration out.

Of the images a bundle knows only how many there were. Its witness goes into the folder as a file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import save

from detector.bundle import Bundle
from detector.bundle.contents import whole_settings_of
from detector.classifier import load_classifier
from detector.errors import BundleError, ConfigError
from detector.files import write_file
from detector.settings import NetworkSettings
from detector.text import printable
from training.attacks.methods import module_of

__all__ = ["recipe_in"]

WITNESS = "witness.safetensors"
NEEDED = ("attacks", "fit", "twins")


def recipe_in(bundle: Bundle, folder: Path, allow: Collection[str], *, new_source: bool = False) -> dict[str, Any]:
    """Classifier (without its weights), witness, attacks to learn from, their deliveries, twins, evidence, fit, groups.

    Args:
        bundle: Whose.
        folder: Where the witness's weights go.
        allow: Modules that a `python:` classifier or witness, or an attack `module:function`, may come from.
        new_source: Whether the classifier's source is given elsewhere: its arguments are then not the bundle's.

    Raises:
        BundleError: It does not say what it was made with.
        ClassifierSpecError: Classifier or witness cannot be built, or comes from a module that is not allowed.
        ConfigError: An attack comes from a module that is not allowed.
    """
    manifest = bundle.manifest
    known: Any = manifest.provenance
    if missing := [name for name in NEEDED if not known.get(name)]:
        raise BundleError(
            f"the bundle does not say what it was made with (no {', '.join(missing)} in its manifest): train one for "
            "the new classifier with heatward train"
        )
    attacks = [each for each in known["attacks"] if each.get("train", True)]
    for each in attacks:
        _check_trusted(str(each.get("name")), allow)
    recipe: dict[str, Any] = {
        "classifier": manifest.classifier.model_dump(mode="json"),
        "witness": None,
        "attacks": attacks,
        "deliveries": _deliveries(known.get("deliveries") or [], attacks),
        "twins": {"sizes": known["twins"]},
        "evidence": dict(manifest.evidence),
        "fit": known["fit"],
        "calibrate": {name: each for name, each in manifest.calibration.items() if name in ("by", "rate", "tail")},
    }
    if manifest.cascade is not None:
        recipe["cascade"] = {name: each for name, each in manifest.cascade.items() if name in ("clears", "views")}
        glance = whole_settings_of(NetworkSettings, manifest.cascade.get("settings"), "cascade.settings")
        if glance.ensemble != known["fit"]["ensemble"]:
            recipe["cascade"]["ensemble"] = glance.ensemble
    if manifest.patches is not None:
        recipe["patches"] = manifest.patches
    if isinstance(known.get("witness"), dict):  # the job made it of a black box
        recipe["distillation"] = known["witness"]
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


def _deliveries(known: list[dict[str, Any]], attacks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ways that are learnt from or foreseen, of attacks that are learnt from."""
    foreseen, labels = {each.get("through") for each in attacks}, [each.get("label") for each in attacks]
    ways = [dict(way) for way in known if way.get("train", True) or way.get("label") in foreseen]
    for way in ways:
        if way.get("of") is not None:
            way["of"] = [label for label in way["of"] if label in labels]
    return ways


def _check_trusted(attack: str, allow: Collection[str]) -> None:
    """Refuse a function of somebody's that a bundle names: to call it is to run its code."""
    module = module_of(attack)
    if module and not any(module == name or module.startswith(f"{name}.") for name in allow):
        raise ConfigError(
            f"the attack {printable(attack)!r} of the bundle runs code from {printable(module)!r}, "
            f"and that is not trusted: if you know this code, allow it with --trusted {printable(module)}"
        )

"""The command `heatward adapt BUNDLE --weights NEW`: words in, an exit code out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import count, rate

from detector import remote
from detector.errors import BusyError, ConfigError
from detector.malloc import keep_freed_memory
from training.cli import check_out, job_overrides, job_parser, print_tables
from training.command import exit_code
from training.load import load_config
from training.retraining.cli import SHOWN
from training.signing import note_unsigned, signing_key

__all__ = ["adapt"]

WORK = "work/adapt"
OURS = ("attacks", "deliveries", "distillation", "evidence", "fit", "twins", "witness")
"""Tables that the bundle decides."""
NOT_READ = (*OURS, "calibrate", "cascade", "classifier", "corruptions")
"""Tables of a file that do not count."""


def adapt(argv: Sequence[str] | None = None) -> int:
    """`heatward adapt BUNDLE --weights NEW --images FOLDER --out FILE`."""
    parser = job_parser(
        "adapt",
        "Fit a bundle's detector to a new release of its classifier, from few images.",
        "Attacks, evidence, twins, witness, network, cascade and calibration are the bundle's. Images, seed and "
        "threads come from flags or from --config, whose other tables do not count. "
        f"Work lies in {WORK} unless --work names another folder.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the detector of the old classifier: path or URL")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--fraction", type=_share, help="share of the images to fit on (0.1)")
    images.add_argument("--fit-images", type=count, metavar="IMAGES", help="fit on so many images, instead")
    parser.add_argument(
        "--measure-images", type=count, metavar="IMAGES", default=200, help="measure on so many, at most (%(default)d)"
    )
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that a python: classifier or an attack comes from",
    )
    parser.add_argument("--json", action="store_true", help="print what was measured before and after as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _adapt(arguments))


def _adapt(arguments: argparse.Namespace) -> int:
    if arguments.weights is None and arguments.classifier is None:
        raise ConfigError("say what is new: --weights FILE of the new release, or --classifier with another source")
    if arguments.out is None:
        raise ConfigError("--out FILE.heatward: say where the adapted bundle goes")
    if Path(arguments.out).absolute() == arguments.bundle.absolute():
        raise ConfigError(f"--out {arguments.out} is the old bundle: give another name, and keep the old one")
    if not (remote.is_url(arguments.bundle) or arguments.bundle.exists()):
        raise ConfigError(f"BUNDLE {arguments.bundle}: there is no such file or folder")
    given = job_overrides(arguments)
    if wrong := sorted(set(OURS) & given.keys()):
        raise ConfigError(
            f"--set {wrong[0]}…: the bundle decides that; heatward train makes a detector with other settings"
        )
    check_out(Path(arguments.out))
    keep_freed_memory()
    # torch and torchattacks: only once the command line is right
    from detector.bundle import load_bundle, verify_bundle
    from training.progress import make_progress
    from training.retraining.adapt import Options
    from training.retraining.adapt import adapt as run
    from training.retraining.adaptation import table
    from training.retraining.recipe import recipe_in

    work = Path(given.setdefault("work", WORK))
    bundle = load_bundle(arguments.bundle)
    recipe = recipe_in(bundle, work, arguments.trusted, new_source=arguments.classifier is not None)
    recipe["classifier"] = _merged(recipe["classifier"], given.pop("classifier", {}))
    config = load_config(arguments.config, {**recipe, **given}, without=NOT_READ)
    key = signing_key(config.sign_key)
    if key is not None and verify_bundle(arguments.bundle, key.public())[0] != bundle.manifest.digest:
        raise BusyError(f"BUNDLE {remote.shown(arguments.bundle)} was replaced meanwhile: run the same command again")
    fraction = None if arguments.fit_images else arguments.fraction or 0.1
    options = Options(fraction, arguments.fit_images, arguments.measure_images)
    with make_progress(as_json=True) as progress:
        note_unsigned(arguments.bundle, key, progress, remote.shown(arguments.bundle))
        found = run(bundle, config, options, progress)
    if arguments.json:
        print(json.dumps(found.dump(), indent=2))
        return ExitCode.OK
    print_tables([table(found)], f"bundle: {found.bundle} ({found.digest[:SHOWN]}), from {found.parent[:SHOWN]}")
    return ExitCode.OK


def _merged(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The bundle's classifier with what is new, and nothing of the file's."""
    nothing: dict[str, Any] = {"weights": None, "labels": None, "arguments": {}}
    return {**nothing, **recipe, **({"classes": None} if "labels" in given else {}), **given}


def _share(text: str) -> float:
    return 1.0 if text in ("1", "1.0") else rate(text)

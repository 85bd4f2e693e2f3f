"""The command `heatward redteam BUNDLE --images FOLDER`: words in, an exit code out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser

from detector import remote
from detector.errors import ConfigError
from detector.load import check_variables, load_settings
from detector.malloc import keep_freed_memory
from detector.text import printable
from training.cli import print_tables
from training.command import exit_code
from training.redteam.conditions import read_condition
from training.redteam.settings import PREFIX, QuickSettings, RedTeamSettings

if TYPE_CHECKING:
    from training.redteam.result import RedTeamResult
    from training.redteam.run import Opened

__all__ = ["redteam"]

Report = Callable[[Path], Path]
"""Draws the page of a red team in a folder; returns where it lies."""

FLAGS = {
    "images": ("FOLDER", "photographs that the bundle was not made with, one folder a class"),
    "out": ("DIR", "folder for parts and results (work/redteam); a killed job goes on from here"),
    "rows": ("0,1,2,3,4", "access: 0 oblivious, 1 transfer, 2 score oracle, 3 decision oracle, 4 white box (all)"),
    "count": ("IMAGES", "images attacked, of those that the classifier gets right"),
    "linf": ("EPS,EPS", "budgets in L∞, such as 2/255,8/255"),
    "l2": ("EPS,EPS", "budgets in L2 of pixels in [0, 1], such as .5"),
    "steps": ("STEPS", "gradient steps of each restart"),
    "restarts": ("COUNT", "restarts of the white box"),
    "queries": ("COUNT", "questions an oracle answers for each image"),
    "methods": ("NAME,NAME", "white-box attacks; default: all"),
    "twin": ("BUNDLE2", "the attacker's own bundle, for row 1: same classes, other images"),
    "server": ("HOST:PORT", "ask this running server of the same bundle in rows 2 and 3"),
    "token-file": ("FILE", "holds the token for that server"),
    "tls-roots": ("FILE.pem", "root certificates of that server"),
    "rate": ("RATE", "false-positive rate under which attackers want to stay (0.05)"),
    "seed": ("SEED", "decides everything random"),
    "threads": ("COUNT", "CPU threads"),
    "device": ("DEVICE", "cpu, cuda, cuda:1"),
}


def redteam(argv: Sequence[str] | None = None, report: Report | None = None) -> int:
    """`heatward redteam BUNDLE --images FOLDER [--quick]`; `report` draws the page."""
    parser = Parser(
        "heatward redteam",
        description="Attack a bundle as people would who know more and more of it: who gets through, at what cost?",
        epilog=f"Flags win over {PREFIX}… environment variables ({PREFIX}STEPS=200), those over the TOML file, which "
        "has every setting (docs/redteam.md). Exit code 1: a condition of --fail-if holds, or a check of the attacks "
        "failed.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the detector to attack: path or URL")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of the settings")
    parser.add_argument(
        "--quick", action="store_true", help="a smaller budget: minutes instead of hours with the embedded bundle"
    )
    for name, (metavar, text) in FLAGS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument(
        "--fail-if",
        action="append",
        metavar="CONDITION",
        help="end with exit code 1 where it holds, e.g. sr5@4/255>.5 or row2:sr1@8/255>.2; may be repeated",
    )
    parser.add_argument(
        "--trusted", action="append", metavar="MODULE", help="a module that a python: classifier comes from"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _redteam(arguments, report))


def _redteam(arguments: argparse.Namespace, report: Report | None) -> int:
    flags: dict[str, Any] = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in FLAGS}
    flags |= {"fail_if": arguments.fail_if, "trusted": arguments.trusted}
    kind = QuickSettings if arguments.quick else RedTeamSettings
    given = {name: value for name, value in flags.items() if value is not None}
    check_variables(kind)
    settings = load_settings(kind, given, arguments.config)
    for text in settings.fail_if:
        read_condition(text).check(settings)
    for name, bundle in (("BUNDLE", arguments.bundle), ("--twin", settings.twin)):
        if bundle is not None and not (remote.is_url(bundle) or bundle.exists()):
            raise ConfigError(f"{name} {bundle}: there is no such file or folder")
    if settings.images is None:
        raise ConfigError("--images FOLDER: name photographs that the bundle was not made with, one folder a class")
    if not settings.images.is_dir():
        raise ConfigError(f"--images {settings.images}: there is no such folder")
    keep_freed_memory()
    # torch and torchattacks: only once the command line is right
    import torch

    from detector.lock import hold
    from training.devices import device_named
    from training.progress import make_progress
    from training.redteam.run import run

    device_named(settings.device)
    torch.set_num_threads(settings.thread_count)
    with (
        make_progress(as_json=True) as progress,
        hold(settings.out, what="out", mend="wait for its end, or give another --out"),
    ):
        twin = None if settings.twin is None else _open(settings.twin, settings)
        result = run(settings, _open(arguments.bundle, settings), twin, progress, quick=arguments.quick)
    drawn = report(settings.out) if report else settings.out / "redteam.json"
    _tell(result, drawn, as_json=arguments.json)
    return ExitCode.FAILED if result.failures or result.failed_checks else ExitCode.OK


def _open(path: Path, settings: RedTeamSettings) -> Opened:
    from detector.bundle import load_bundle
    from detector.detector import Detector
    from training.redteam.run import Opened

    bundle = load_bundle(path)
    return Opened(bundle, Detector.assemble(bundle, device=settings.device, allow=settings.trusted))


def _tell(result: RedTeamResult, drawn: Path, *, as_json: bool) -> None:
    from training.redteam.tables import all_tables

    if as_json:
        print(json.dumps({"report": str(drawn), **result.dump()}, indent=2))
        return
    refused = [f"row {row.row} ({row.access}): {row.refused}" for row in result.rows if row.refused]
    failed = [f"FAILED check: {check.name}: {check.said}" for check in result.failed_checks]
    failed += [f"FAILED --fail-if {failure}" for failure in result.failures]
    print_tables(all_tables(result), f"report: {drawn}")
    for line in (*refused, *failed):
        print(printable(line, None))

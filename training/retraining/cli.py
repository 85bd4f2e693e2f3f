"""The commands on a store: `heatward retrain`, `recalibrate`, `rollback`, `history`. Words in, an exit code out.

What a program may want to read is JSON on standard output with `--json`; progress and errors go to standard error, as
lines of JSON where that is no terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, count, rate

from detector.errors import ConfigError, HeatwardError
from detector.malloc import keep_freed_memory
from detector.remote import is_url, shown
from detector.text import printable
from training.cli import Report, add_mlflow, check_out, job_config, job_parser, print_tables
from training.command import exit_code
from training.signing import note_unsigned, public_keys, signing_key
from training.tracking import Run, check_mlflow, point_alias, send

if TYPE_CHECKING:
    from rich.table import Table

    from detector.bundle.folder import Champion
    from training.retraining.retrain import Outcome

__all__ = ["history", "recalibrate", "retrain", "rollback"]

STORE = "folder of bundles; its champion.json names the one that serves"
SHOWN = 16
"""Characters of a digest: as many as a server's version has."""


def retrain(argv: Sequence[str] | None = None, report: Report | None = None) -> int:
    """`heatward retrain --champion STORE --config FILE`; `report` draws the comparison."""
    parser = job_parser(
        "retrain",
        "Make a challenger, measure it beside the champion on the same images, and have it serve if it is better.",
        "Exit code 3: the challenger is not better, the champion stays. After an interruption, run the same command.",
    )
    parser.add_argument("--champion", type=Path, required=True, metavar="STORE", help=STORE)
    parser.add_argument("--rate", type=rate, help="false-positive rate at which both are compared (0.01)")
    parser.add_argument(
        "--tolerance", type=rate, help="loss on an old attack, or rise of false alarms, that must be excluded (0.05)"
    )
    parser.add_argument(
        "--forget", action="append", default=[], metavar="LABEL", help="an old attack that need not be measured"
    )
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FOLDER",
        help="what a server recorded: to measure on and to learn from",
    )
    parser.add_argument("--traffic", type=count, metavar="IMAGES", help="at most so many recorded images (2000)")
    parser.add_argument(
        "--warm-epochs",
        type=count,
        metavar="N",
        help="begin with the champion's networks and fit them for so many epochs (networks begin anew)",
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_mlflow(parser)
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _retrain(arguments, report))


def recalibrate(argv: Sequence[str] | None = None) -> int:
    """`heatward recalibrate STORE|BUNDLE --clean FOLDER | --records FOLDER`."""
    parser = Parser(
        "heatward recalibrate",
        description="Set new thresholds from recent images that nobody attacked, without training anything.",
        epilog="Of a store, the champion is calibrated anew and replaced; heatward rollback brings the old one back.",
    )
    parser.add_argument("target", type=Path, metavar="STORE|BUNDLE", help="a store, or a bundle together with --out")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--clean", type=Path, metavar="FOLDER", help="recent images that nobody attacked")
    images.add_argument("--records", type=Path, metavar="FOLDER", help="what a server recorded, but reported attacks")
    parser.add_argument("--traffic", type=count, default=10_000, metavar="IMAGES", help="at most so many (%(default)d)")
    parser.add_argument("--client", metavar="NAME", help="of the records, only those of this client: its token's name")
    parser.add_argument(
        "--by",
        choices=("prediction", "all"),
        help="rank an image among those of its predicted class, or among all (as the bundle does)",
    )
    parser.add_argument(
        "--tail", action="store_true", help="estimate how rare a score is that is higher than all of these images"
    )
    parser.add_argument(
        "--delivered",
        action="store_true",
        help="count each image also as it arrives in the ways that the bundle learnt ([[deliveries]])",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where a bundle calibrated anew goes")
    parser.add_argument(
        "--rate", type=rate, default=0.01, help="false-positive rate that must be reached (%(default)g)"
    )
    parser.add_argument(
        "--attacked-share",
        type=_share,
        metavar="SHARE",
        help="leave out so many of the highest scores, for they may be attacked; 0: all images are clean",
    )
    parser.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="private Ed25519 key that signed the old bundle and signs the new"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (%(default)s)")
    parser.add_argument(
        "--trusted", action="append", default=[], metavar="MODULE", help="a module that a python: classifier comes from"
    )
    parser.add_argument("--json", action="store_true", help="print what changed as JSON")
    add_mlflow(parser)
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _recalibrate(arguments))


def rollback(argv: Sequence[str] | None = None) -> int:
    """`heatward rollback STORE [--to BUNDLE]`."""
    parser = Parser("heatward rollback", description="Have the champion before this one, or any other, serve again.")
    parser.add_argument("store", type=Path, metavar="STORE", help=STORE)
    parser.add_argument(
        "--to", metavar="BUNDLE", help="the beginning of its digest, its version on a server, or its name"
    )
    parser.add_argument("--json", action="store_true", help="print the pointer as JSON")
    add_mlflow(parser)
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _rollback(arguments))


def history(argv: Sequence[str] | None = None) -> int:
    """`heatward history STORE`."""
    parser = Parser("heatward history", description="Show which bundle was champion when, and which did not become it.")
    parser.add_argument("store", type=Path, metavar="STORE", help=STORE)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _history(arguments))


def _retrain(arguments: argparse.Namespace, report: Report | None) -> int:
    config = job_config(arguments)
    signing_key(config.sign_key)
    names = ("rate", "tolerance", "records", "traffic", "warm_epochs")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    check_mlflow(arguments.mlflow)
    keep_freed_memory()
    # torch and torchattacks: only once the command line is right
    from training.progress import make_progress
    from training.retraining.retrain import CHALLENGER, Options, retrain
    from training.retraining.store import Store

    store = Store.open(arguments.champion)
    options = Options(forget=tuple(arguments.forget), **given)
    with make_progress(as_json=True) as progress:
        outcome = retrain(config, store, options, progress)
        drawn = report(outcome.folder) if report else outcome.folder / "comparison.json"
        made: dict[str, Any] = {}
        if arguments.mlflow:
            promoted, told = outcome.comparison.promoted, outcome.comparison.dump()
            settings = {**config.model_dump(mode="json"), "champion": told["champion"], **asdict(options)}
            run = Run(
                "retrain",
                settings,
                {**told, "promoted": int(promoted)},
                (drawn, outcome.folder / "comparison.json"),
                store.path(outcome.champion) if promoted else outcome.folder / CHALLENGER,
                outcome.champion.digest if promoted else told["challenger"],
                promoted,
            )
            made["mlflow"] = send(arguments.mlflow, run, progress).dump()
    _tell(outcome, drawn, made, as_json=arguments.json)
    return ExitCode.OK if outcome.comparison.promoted else ExitCode.NOT_PROMOTED


def _tell(outcome: Outcome, drawn: Path, made: Mapping[str, Any], *, as_json: bool) -> None:
    from training.retraining.comparison import table

    comparison = outcome.comparison
    if as_json:
        champion = outcome.champion.model_dump(mode="json")
        told = {"champion": champion, "report": str(drawn), "comparison": comparison.dump(), **made}
        print(json.dumps(told, indent=2))
        return
    became = "promoted" if comparison.promoted else "not promoted"
    print_tables([table(comparison)], f"champion: {outcome.champion.bundle} ({outcome.champion.digest[:SHOWN]})")
    for reason in comparison.reasons:
        print_tables([], f"{became}: {reason}")
    print_tables([], f"report: {drawn}")


def _recalibrate(arguments: argparse.Namespace) -> int:
    is_store = arguments.target.is_dir() and not (arguments.target / "manifest.json").exists()
    place = shown(arguments.target)
    if not is_url(arguments.target) and not arguments.target.exists():
        raise ConfigError(f"{place}: there is no such store or bundle")
    if is_store == (arguments.out is not None):
        raise ConfigError(
            "--out: a store keeps its own bundles; leave it out"
            if is_store
            else f"--out FILE: {place} is a bundle, not a store: say where the one calibrated anew goes"
        )
    if arguments.client is not None and arguments.records is None:
        raise ConfigError("--client: whose images they are is known of --records only; give these instead of --clean")
    check_mlflow(arguments.mlflow)
    key = signing_key(arguments.sign_key)
    if arguments.out is not None:
        check_out(arguments.out)
    keep_freed_memory()
    from detector.bundle import load_bundle, read_manifest, save_bundle
    from training.progress import make_progress
    from training.retraining.recalibrate import Options, images_in, recalibrate
    from training.retraining.store import Store
    from training.retraining.traffic import read_traffic

    given = (arguments.rate, arguments.attacked_share, arguments.by, arguments.tail, arguments.delivered)
    options = Options(*given, arrived=arguments.records is not None)
    with ExitStack() as stack:
        store = Store.open(arguments.target) if is_store else None
        if store is not None:
            stack.enter_context(store.hold())
        champion = store.champion() if store is not None else None
        progress = stack.enter_context(make_progress(as_json=True))
        old = load_bundle(store.path(champion) if store and champion else arguments.target, public_keys(key))
        if store is not None and champion is not None:
            note_unsigned(store.path(champion), key, progress)
        else:
            note_unsigned(arguments.target, key, progress, place)
        images = (
            images_in(arguments.clean, progress)
            if arguments.clean
            else read_traffic(arguments.records, arguments.traffic, progress, client=arguments.client).to_calibrate
        )
        new, told = recalibrate(old, images, options, progress, device=arguments.device, allow=arguments.trusted)
        if store is not None and champion is not None:
            why = f"thresholds of {told.images - told.left_out} images"
            pointed = store.promote(new, "recalibrated", why, champion, key)
            name, digest = pointed.bundle, pointed.digest
        else:
            save_bundle(arguments.out, new, key=key)
            name, digest = str(arguments.out), read_manifest(arguments.out).digest
        made: dict[str, Any] = {}
        if arguments.mlflow:
            bundle = arguments.out if store is None else store.folder / name
            run = Run("recalibrate", asdict(options), told.dump(), (), bundle, digest, store is not None)
            made["mlflow"] = send(arguments.mlflow, run, progress).dump()
    if arguments.json:
        print(json.dumps({"bundle": name, "digest": digest, **told.dump(), **made}, indent=2))
        return ExitCode.OK
    before = "none" if told.threshold_before is None else f"{told.threshold_before:.4g}"
    for line in (
        f"images: {told.images}, {told.left_out} of them left out, {told.copies} copies, {told.unreadable} unreadable",
        f"threshold at {told.rate:g}: {before} → {told.threshold:.4g}" + " (all images)" * bool(told.groups),
        *(f"predicted {group}: {size} images" for group, size in told.groups.items()),
        *(f"warning: {each}" for each in told.warnings),
        f"bundle: {name} ({digest[:SHOWN]})",
    ):
        print_tables([], line)
    return ExitCode.OK


def _share(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else rate(text)


def _rollback(arguments: argparse.Namespace) -> int:
    check_mlflow(arguments.mlflow)
    from training.progress import make_progress
    from training.retraining.store import Store

    champion = Store.at(arguments.store).rollback(arguments.to)
    made: dict[str, Any] = {}
    if arguments.mlflow:
        with make_progress(as_json=True) as progress:
            made["mlflow"] = point_alias(arguments.mlflow, champion.digest, progress).dump()
    if arguments.json:
        print(json.dumps({**champion.model_dump(mode="json"), **made}, indent=2))
    else:
        print_tables([], f"champion: {champion.bundle} ({champion.digest[:SHOWN]}), {champion.why}")
    return ExitCode.OK


def _history(arguments: argparse.Namespace) -> int:
    from detector.bundle.folder import read_champion
    from training.retraining.store import Store

    store = Store.at(arguments.store)
    found, champion = store.history(), store.pointer()
    if not found.entries:
        Store.open(arguments.store)  # says what is wrong with it
    try:
        read_champion(store.folder)
    except HeatwardError as error:  # what was champion is to be seen all the same: a rollback needs its name
        print_tables([], f"warning: {error}", file=sys.stderr)
    if arguments.json:
        entries: list[dict[str, Any]] = [each.model_dump(mode="json") for each in found.entries]
        now = champion.model_dump(mode="json") if champion else None
        print(json.dumps({"champion": now, "history": entries, "damaged_lines": found.damaged}, indent=2))
        return ExitCode.OK
    note = f"{found.damaged} damaged lines were left out" if found.damaged else f"{len(found.entries)} lines"
    print_tables([_table(found.entries, champion)], note)
    return ExitCode.OK


def _table(entries: Sequence[Champion], champion: Champion | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    found = Table(title="* serves now", title_justify="left")
    for column in ("", "time (UTC)", "event", "bundle", "digest", "parent", "why"):
        found.add_column(column)
    for each in entries:
        cells = (each.event, each.bundle, each.digest[:SHOWN], (each.parent or "")[:SHOWN], each.why)
        serves = "*" if each == champion else ""
        # text of any origin: neither markup nor commands to a terminal
        found.add_row(serves, f"{each.since:%Y-%m-%d %H:%M:%S}", *(Text(printable(cell, None)) for cell in cells))
    return found

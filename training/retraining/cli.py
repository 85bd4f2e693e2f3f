"""The commands on a store: `heatward retrain`, `rollback` and `history`. Words in, an exit code out.

What a program may want to read is JSON on standard output with `--json`; progress and errors go to standard error, as
lines of JSON where that is no terminal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, rate

from detector.malloc import keep_freed_memory
from training.cli import job_config, job_parser, print_tables
from training.command import exit_code

if TYPE_CHECKING:
    from rich.table import Table

    from detector.bundle.folder import Champion
    from training.retraining.retrain import Outcome

__all__ = ["history", "retrain", "rollback"]

STORE = "folder of bundles; its champion.json names the one that serves"
SHOWN = 16
"""Characters of a digest: as many as a server's version has."""


def retrain(argv: Sequence[str] | None = None) -> int:
    """`heatward retrain --champion STORE --config FILE`."""
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
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _retrain(arguments))


def rollback(argv: Sequence[str] | None = None) -> int:
    """`heatward rollback STORE [--to BUNDLE]`."""
    parser = Parser("heatward rollback", description="Have the champion before this one, or any other, serve again.")
    parser.add_argument("store", type=Path, metavar="STORE", help=STORE)
    parser.add_argument(
        "--to", metavar="BUNDLE", help="the beginning of its digest, its version on a server, or its name"
    )
    parser.add_argument("--json", action="store_true", help="print the pointer as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _rollback(arguments))


def history(argv: Sequence[str] | None = None) -> int:
    """`heatward history STORE`."""
    parser = Parser("heatward history", description="Show which bundle was champion when, and which did not become it.")
    parser.add_argument("store", type=Path, metavar="STORE", help=STORE)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _history(arguments))


def _retrain(arguments: argparse.Namespace) -> int:
    config = job_config(arguments)
    given = {name: getattr(arguments, name) for name in ("rate", "tolerance") if getattr(arguments, name) is not None}
    keep_freed_memory()
    # torch and torchattacks: only once the command line is right
    from training.progress import make_progress
    from training.retraining.retrain import Options, retrain
    from training.retraining.store import Store

    store = Store.open(arguments.champion)
    options = Options(forget=tuple(arguments.forget), **given)
    with make_progress(as_json=True) as progress:
        outcome = retrain(config, store, options, progress)
    _tell(outcome, as_json=arguments.json)
    return ExitCode.OK if outcome.comparison.promoted else ExitCode.NOT_PROMOTED


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    from training.retraining.comparison import table

    comparison = outcome.comparison
    if as_json:
        champion = outcome.champion.model_dump(mode="json")
        print(json.dumps({"champion": champion, "comparison": comparison.dump()}, indent=2))
        return
    told = "promoted" if comparison.promoted else "not promoted"
    print_tables([table(comparison)], f"champion: {outcome.champion.bundle} ({outcome.champion.digest[:SHOWN]})")
    for reason in comparison.reasons:
        print_tables([], f"{told}: {reason}")


def _rollback(arguments: argparse.Namespace) -> int:
    from training.retraining.store import Store

    champion = Store(arguments.store).rollback(arguments.to)
    if arguments.json:
        print(champion.model_dump_json(indent=2))
    else:
        print_tables([], f"champion: {champion.bundle} ({champion.digest[:SHOWN]}), {champion.why}")
    return ExitCode.OK


def _history(arguments: argparse.Namespace) -> int:
    from training.retraining.store import Store

    store = Store.open(arguments.store)
    found, champion = store.history(), store.pointer()
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

    found = Table(title="* serves now", title_justify="left")
    for column in ("", "time (UTC)", "event", "bundle", "digest", "parent", "why"):
        found.add_column(column)
    for each in entries:
        found.add_row(
            "*" if each == champion else "",
            f"{each.since:%Y-%m-%d %H:%M:%S}",
            each.event,
            each.bundle,
            each.digest[:SHOWN],
            (each.parent or "")[:SHOWN],
            each.why,
        )
    return found

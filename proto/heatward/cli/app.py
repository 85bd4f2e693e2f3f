"""The `heatward` command: the first word picks a command, the rest is its own to read.

The commands here need the client only. `serve`, `train`, `evaluate`, `redteam`, `explain`, `review` and `demo` live
outside the wheel and plug in through the entry points `heatward.commands`: functions (argv) -> exit code. They are
imported only when called, so that `heatward --help` costs no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points, version

from heatward import __version__
from heatward.cli.exit_codes import ExitCode
from heatward.cli.output import OutputLostError, complain, escape_what_cannot_be_shown, flush, write
from heatward.cli.text import nearest, printable

__all__ = ["main"]

Command = Callable[[list[str]], int]

BUILT_IN = ("detect", "inspect", "health", "label", "events")
"""Each a function in a module of its name."""
GROUP = "heatward.commands"

SUMMARIES = {
    "demo": "attack sample photographs, send them to a local server, watch it flag them",
    "explain": "show every heatmap of an image and its verdict on one page:  heatward explain photo.jpg",
    "train": "make a detector for your own classifier and images:  heatward train --config config.toml",
    "evaluate": "measure a detector on held-out attacks and write a report",
    "redteam": "attack a bundle as people would who know it:  heatward redteam BUNDLE --images FOLDER [--quick]",
    "retrain": "make a challenger, and have it serve if it is better:  heatward retrain --champion STORE --config FILE",
    "recalibrate": "set new thresholds from recent clean images, without training",
    "adapt": "fit a bundle to a new release of its classifier:  heatward adapt BUNDLE --weights NEW --out FILE",
    "rollback": "have the champion before this one serve again:  heatward rollback STORE",
    "history": "show which bundle was champion when, and why:  heatward history STORE",
    "keygen": "make a pair of keys that sign and verify bundles:  heatward keygen FILE",
    "sign": "sign a bundle:  heatward sign BUNDLE --key FILE",
    "verify": "tell whether a trusted key signed a bundle:  heatward verify BUNDLE --key FILE.pub",
    "serve": "start the server:  heatward serve [BUNDLE]",
    "detect": "send image files or folders to a server:  heatward detect photos/",
    "inspect": "show what a bundle or a running server holds:  heatward inspect BUNDLE | HOST:PORT",
    "label": "tell a server that records what an image was:  heatward label ID false-alarm | attack | true-label=CLASS",
    "review": "look at what a server recorded and flagged, and label it, in a browser:  heatward review RECORDS",
    "events": "check that nobody changed a server's events:  heatward events verify FILE ...",
    "health": "exit 0 when a server answers requests, 1 when not (for container health checks)",
    "version": "print the versions of heatward, grpcio, protobuf and Python",
}

USAGE = "usage: heatward COMMAND [options]      heatward COMMAND --help"
INSTALL = 'pip install -e ".[serve,train]"'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    escape_what_cannot_be_shown()
    try:
        try:
            return _run(words[0] if words else "", words[1:])
        finally:
            flush()  # what a plug-in left in the buffer
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `heatward detect … | head`
        _give_up_output()
        return ExitCode.BROKEN_PIPE
    except OutputLostError as error:
        _give_up_output()
        complain("heatward", str(error))
        return ExitCode.MISTAKE


def _run(name: str, rest: list[str]) -> int:
    if name in ("-h", "--help", "help"):
        write(_help())
        return ExitCode.OK
    if name in ("version", "--version", "-V"):
        write(_versions())
        return ExitCode.OK
    if not name:
        print(_help(), file=sys.stderr)
        return ExitCode.MISTAKE
    command = _load(name)
    return ExitCode.MISTAKE if command is None else command(rest)


def _give_up_output() -> None:
    """Python would complain at its end about what it cannot write."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(name: str) -> Command | None:
    """The command, or None after saying why there is none."""
    if name in BUILT_IN:
        built_in: Command = getattr(importlib.import_module(f"heatward.cli.{name}"), name)
        return built_in
    found = entry_points(group=GROUP, name=name)
    if not found and name not in SUMMARIES:
        known = [*SUMMARIES, *(point.name for point in entry_points(group=GROUP))]
        guess = nearest(name.lstrip("-"), known) or f"; there are {', '.join(SUMMARIES)}"
        complain("heatward", f"there is no command '{printable(name)}'{guess} (heatward --help)")
        return None
    try:
        for entry_point in found:
            plugged_in: Command = entry_point.load()
            return plugged_in
        missing = "it is not installed"
    except ModuleNotFoundError as error:
        missing = f"the module {error.name!r} is not installed"
    print(
        f"heatward {name}: {missing}. The client package holds only detect, inspect, label, events and health;\n"
        f"for {name}, install heatward from a checkout of its repository:  {INSTALL}",
        file=sys.stderr,
    )
    return None


def _help() -> str:
    summaries = SUMMARIES | {
        point.name: f"plug-in {point.value}" for point in entry_points(group=GROUP) if point.name not in SUMMARIES
    }
    width = max(map(len, summaries))
    commands = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    codes = [f"  {code:<{width}}  {code.meaning}" for code in ExitCode]
    title = "heatward: was this image attacked, and what did it show before?"
    return "\n".join([title, "", USAGE, "", *commands, "", "exit codes", *codes])


def _versions() -> str:
    parts = [f"{package} {version(package)}" for package in ("grpcio", "protobuf")]
    return f"heatward {__version__} ({', '.join(parts)}, Python {platform.python_version()})"

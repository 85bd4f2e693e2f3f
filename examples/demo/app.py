"""`heatward demo`: a server, live attacks, and its verdicts on them.

    photographs ─▶ PGD, CW, Square on the bundle's classifier ─▶ PNG, JPEG ─▶ heatward.Client ─▶ running server
                                                     table, totals, latency, demo.png, demo.html ◀─ verdicts

The server is a process of its own and sees nothing but image bytes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, count, rate

from detector.cpus import available_cpus
from detector.errors import ConfigError, HeatwardError
from detector.text import printable
from training.command import exit_code

if TYPE_CHECKING:
    from rich.progress import Progress

    from examples.demo.images import Case
    from examples.demo.report import Answer

__all__ = ["ask", "main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """`heatward demo`, with errors said on stderr."""
    return exit_code(lambda: run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 when every image was answered and the server ended cleanly.

    Raises:
        HeatwardError: no bundle, no photographs, or a server that did not start, answer or stop.
    """
    arguments = _parse(argv)
    started = time.monotonic()
    out: Path = arguments.out
    for option, place in (("--images", arguments.images), ("--bundle", arguments.bundle)):
        if place is not None and not place.exists():
            raise ConfigError(f"{option} {place}: there is no such file or folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}") from error
    # torch takes seconds to import: only once the command line is known to be good
    import torch
    from rich.console import Console

    from detector.bundle import EMBEDDED, load_bundle
    from detector.classifier import load_classifier
    from examples.demo.images import ATTACKS, SAMPLES, load_photographs, make_cases
    from examples.demo.report import show, write_report
    from examples.demo.server import ServerProcess

    bundle = load_bundle(arguments.bundle or EMBEDDED)
    console = Console()
    with ServerProcess(arguments.bundle, out / "server.log") as server, _progress() as progress:
        torch.set_num_threads(max(1, available_cpus() - 1))  # the server is warming up on the other core
        classifier = load_classifier(bundle.manifest.classifier, state_dict=bundle.classifier_weights, allow=())
        photographs = load_photographs(arguments.images or SAMPLES, classifier, arguments.count)
        bar = progress.add_task(f"attacking {len(photographs)} photographs", total=len(ATTACKS))
        cases = make_cases(photographs, classifier, seed=arguments.seed, advance=lambda kind: progress.advance(bar))
        bar = progress.add_task("waiting for the server", total=1)
        address = server.address()
        progress.advance(bar)
        bar = progress.add_task(f"asking {address}", total=len(cases))
        answers = ask(address, cases, arguments.false_positive_rate, lambda: progress.advance(bar))
        server.stop()
    show(answers, console, rate=arguments.false_positive_rate, photographs=arguments.rows)
    write_report(out, answers, rate=arguments.false_positive_rate)
    console.print(
        f"The server on {address} stopped cleanly; {time.monotonic() - started:.0f} s in all.", highlight=False
    )
    for what, name in (("Picture: ", "demo.png"), ("Report:  ", "demo.html")):
        written = printable(f"{what}{out / name}", None)
        console.print(written, highlight=False, markup=False, emoji=False, soft_wrap=True)
    return ExitCode.OK


def ask(address: str, cases: Sequence[Case], rate: float, advance: Callable[[], None] = lambda: None) -> list[Answer]:
    """Send every case as a file, one call each, as a pipeline in production would.

    Raises:
        HeatwardError: the server refused one.
    """
    import heatward

    from examples.demo.report import Answer

    answers = []
    try:
        with heatward.Client(address, timeout_s=60, wait_for_ready=True) as client:
            for case in cases:
                content = case.file or encode_png(case)
                asked = time.perf_counter()
                verdict = client.detect(content, false_positive_rate=rate, heatmap="float")
                answers.append(Answer(case, verdict, (time.perf_counter() - asked) * 1e3))
                advance()
    except heatward.DetectionError as error:
        raise HeatwardError(f"the server at {address} did not answer: {error}") from error
    return answers


def encode_png(case: Case) -> bytes:
    """Lossless: the server sees the very pixels that the attack made."""
    from detector.heatmaps.overlay import png
    from training.evaluation.examples import pixels

    return png(pixels(case.pixels))


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "heatward demo",
        description="Start a server, attack photographs live with PGD, CW and Square, and watch it flag them.",
    )
    parser.add_argument("--out", type=Path, default=Path("work/demo"), help="where demo.png and demo.html go")
    parser.add_argument(
        "--images",
        type=Path,
        help="photographs, in folders named after classes; default: ours",
    )
    parser.add_argument("--bundle", type=Path, help="a detector; default: the embedded CIFAR-10 one")
    parser.add_argument("--count", type=count, default=24, help="photographs to attack (default: 24)")
    parser.add_argument("--rows", type=count, default=4, help="photographs shown in the table (default: 4)")
    parser.add_argument(
        "--false-positive-rate", type=rate, default=0.05, help="share of clean images you accept to see flagged"
    )
    parser.add_argument("--seed", type=int, default=0, help="of attacks and noise")
    return parser.parse_args(argv)

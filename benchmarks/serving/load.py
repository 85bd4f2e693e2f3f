"""The server under load over loopback: goodput, throughput, overhead, latency, tail, a long mixed load, fairness.

    python -m benchmarks.serving.load                       # a, b, c, d, e, g: about five minutes
    python -m benchmarks.serving.load --parts a,c --json work/serving.json
    python -m benchmarks.serving.load --parts f --minutes 5

Server, load generators and this program are processes of their own; speeds are ratios within one run, medians of
`--repeats`. Where the machine's noise must not decide, a stand-in detector takes the place of the embedded one: a batch
of n sleeps a + b·n and computes nothing (a = 5 ms, b = 8 ms, as on a CPU, where not said otherwise).

    a  goodput    answers within 250 ms, per second, as a share of capacity (verdicts per second of 64 calls at once),
                  when 0.5, 1, 2, 5 times that arrive (open loop, Poisson). Beside it "FIFO": the same server, told of
                  no deadline and with room for all, so that it neither predicts nor drops
    b  throughput the embedded detector, 64 calls at once: CPU time per image in process, in batches of the size that
                  pays, / CPU time of the server per image. Once with `batch_goal_ms` so large that it never binds, once
                  with default settings, where it trades throughput for latency
    c  overhead   a near-free model, the embedded witness (a fifth of the embedded classifier): CPU time per image in
                  process, in full batches, / CPU time of the server per image. Raw images of 32 px. 1 would be: serving
                  costs nothing. And where the rest goes: CPU time of a bare grpc.aio server (parses the same messages,
                  makes a tensor of the pixels, answers a constant verdict; no queue, deadline, validation, batch,
                  metric or log) / that of ours with a detector that computes nothing
    d  latency    the embedded detector, one call at a time, less the same file decoded and judged in process; beside it
                  a bare server's call as seldom, which finds as cold a machine
    e  tail       p99 / p50 from due time to answer at 70 % of capacity (open loop, Poisson). The floor: what the same
                  batches would give without any overhead, and the queue M/D/1
    f  flatness   an hour's mixed load in `--minutes`: see soak.py. Not among the default parts
    g  fairness   a client with a token of its own, alone and beside one that sends 50 times as much, which is more than
                  the server's capacity: its p99. Once with a = 150 ms, b = 2 ms (an accelerator), once as on a CPU,
                  where full batches take ten times as long as an image alone, whoever filled them
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.table import Table

from benchmarks.serving.parts import PARTS, Options, Row
from benchmarks.serving.soak import soak
from detector.errors import HeatwardError
from training.evaluation.tables import render
from training.progress import make_progress
from training.shards import write_json

SOAK = "f"


def table(rows: dict[str, list[Row]]) -> Table:
    shown = Table(title="The server under load", title_justify="left")
    for column in ("", "measured"):
        shown.add_column(column)
    for column in ("value", "goal", " "):
        shown.add_column(column, justify="right")
    for part, found in rows.items():
        for place, row in enumerate(found):
            reached = {None: "", True: "met", False: "missed"}[row.met]
            shown.add_row(part if not place else "", row.what, row.shown, row.goal_shown, reached)
    return shown


def chosen(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := sorted(set(parts) - {*PARTS, SOAK}):
        raise argparse.ArgumentTypeError(f"no parts {unknown}; there are {','.join(sorted({*PARTS, SOAK}))}")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=chosen, default=list(PARTS), help="some of a,b,c,d,e,f,g (all but f)")
    parser.add_argument("--seconds", type=float, default=5.0, help="unit of time of the measurements (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="of b, c and e (%(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of f (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    try:
        with make_progress() as progress, progress.task("parts", len(options.parts), unit="parts") as advance:
            for part in options.parts:
                measure = (
                    soak(options.minutes) if part == SOAK else PARTS[part](Options(options.seconds, options.repeats))
                )
                rows[part] = list(measure)
                advance(1)
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error
    print("\n" + render([table(rows)]))
    if options.json:
        write_json(
            options.json, {part: [vars(row) | {"met": row.met} for row in found] for part, found in rows.items()}
        )


if __name__ == "__main__":
    main()

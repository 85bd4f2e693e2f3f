"""Servers and load generators, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.measures import Cost
from benchmarks.serving.send import Load, Report
from detector.errors import HeatwardError

__all__ = ["ENVIRONMENT", "ROOT", "Server", "command", "drive", "serving"]

ROOT = Path(__file__).parents[2]
DEFAULTS: dict[str, object] = {"port": 0, "metrics-port": "null", "threads": 1}
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Server:
    """One that serves."""

    process: subprocess.Popen[str]
    address: str
    metrics_address: str

    def load(self, **what: Any) -> Load:
        return Load(address=self.address, pid=self.process.pid, **what)


def command(kind: str, cost: Cost | None = None, **settings: object) -> list[str]:
    """What starts a server of `serve.py`.

    Args:
        kind: As `serve.py` says.
        cost: Of a stand-in's batches.
        settings: Of `heatward serve`, beside our defaults.
    """
    words = [sys.executable, "-m", "benchmarks.serving.serve", kind]
    words += [str(cost.fixed_s), str(cost.image_s)] if cost else []
    if kind == "bare":
        return words
    flags = DEFAULTS | {name.replace("_", "-"): value for name, value in settings.items()}
    bundle = [str(flags.pop("bundle"))] if "bundle" in flags else []
    return [*words, *bundle, *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


@contextmanager
def serving(
    kind: str, cost: Cost | None = None, *, environment: Mapping[str, str] = ENVIRONMENT, **settings: object
) -> Iterator[Server]:
    """Starts a server and ends it.

    Args:
        kind: As `command` says, like `cost` and `settings`.
        cost: Of a stand-in's batches.
        environment: Of the process.
        settings: Of `heatward serve`.

    Raises:
        HeatwardError: It does not start.
    """
    started = command(kind, cost, **settings)
    process = subprocess.Popen(
        started, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise HeatwardError(f"the server did not start; see why: {' '.join(started)}")
        ready = json.loads(line)
        yield Server(process, ready["address"], ready.get("metrics_address", ""))
    finally:
        process.terminate()
        process.wait(timeout=60)
        if process.stdout:
            process.stdout.close()


def drive(*loads: Load) -> list[Report]:
    """Sends loads at the same time.

    Raises:
        HeatwardError: A generator failed.
    """
    running = [_start(load) for load in loads]
    return [_report(each) for each in running]


def _start(load: Load) -> subprocess.Popen[str]:
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.serving.send", json.dumps(asdict(load)))
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def _report(generator: subprocess.Popen[str]) -> Report:
    output, _ = generator.communicate()
    if generator.returncode:
        raise HeatwardError("a load generator failed; its message stands above")
    return Report(**json.loads(output))

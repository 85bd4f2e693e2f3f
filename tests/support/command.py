"""Runs `heatward WORDS` in a process of its own, as a shell does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import heatward

__all__ = ["run", "start"]


def start(
    *words: str | bytes, variables: dict[str, str] | None = None, closed: int | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """`closed` is a file descriptor that the command does not have."""
    environment = {**os.environ, "PYTHONPATH": str(Path(heatward.__file__).parents[1]), **(variables or {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    words = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's & ignores it
        "from heatward.cli import main; sys.exit(main())",
        *words,
    )
    # by a shell: a function that runs in the child would fork this process with gRPC's threads
    shell = () if closed is None else ("sh", "-c", f'exec "$@" {closed}>&-', "sh")
    return subprocess.Popen([*shell, sys.executable, "-c", *words], env=environment, **options)


def run(
    *words: str | bytes,
    variables: dict[str, str] | None = None,
    piped: bytes | None = None,
    closed: int | None = None,
    **options: Any,
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output, standard error."""
    if piped is not None:
        options["stdin"] = subprocess.PIPE
    with start(*words, variables=variables, closed=closed, **options) as process:
        out, err = process.communicate(piped, timeout=60)
    return process.returncode, out or b"", err or b""

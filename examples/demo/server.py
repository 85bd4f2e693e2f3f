"""A heatward server for the time of a demonstration: bundle in, address out, and a clean stop at the end."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from detector.errors import HeatwardError

__all__ = ["ServerProcess", "ServerProcessError"]


class ServerProcessError(HeatwardError):
    """The server did not start, or did not stop as it should."""


class ServerProcess:
    """`heatward serve` on a free port of this machine. Use as a context manager; starting does not wait.

    Args:
        bundle: the detector; None for the embedded one.
        log: where the server's log goes.
        options: more words for `heatward serve`.
        command: the program, for tests.
    """

    def __init__(
        self, bundle: Path | None, log: Path, *, options: Sequence[str] = (), command: Sequence[str] | None = None
    ) -> None:
        words = list(command or (sys.executable, "-m", "heatward", "serve"))
        words += [str(bundle)] if bundle else []
        words += ["--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", *options]
        self.log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:  # a failure before `stop`
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def address(self, timeout_s: float = 120.0) -> str:
        """Wait until the server is warm; its "host:port".

        Raises:
            ServerProcessError: it ended, or said nothing for `timeout_s`.
        """
        try:
            while line := self._lines.get(timeout=timeout_s):
                if line.startswith("{") and (said := json.loads(line)).get("event") == "ready":
                    return str(said["address"])
        except queue.Empty:
            raise ServerProcessError(f"the server was not ready after {timeout_s:.0f} s; {self._end()}") from None
        status = self._process.wait()
        raise ServerProcessError(f"the server ended with status {status} before it was ready; {self._end()}")

    def stop(self, timeout_s: float = 30.0) -> None:
        """Ask the server to drain and end.

        Raises:
            ServerProcessError: it did not end in time, or not with status 0.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServerProcessError(f"the server still runs {timeout_s:.0f} s after SIGTERM; {self._end()}") from None
        if status != 0:
            raise ServerProcessError(f"the server ended with status {status}, expected 0; {self._end()}")

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line)
        self._lines.put("")

    def _end(self) -> str:
        """The last lines of the log, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        return f"the end of {self.log}: {' | '.join(lines)}" if lines else f"{self.log} is empty"

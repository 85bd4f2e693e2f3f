"""Progress of a job: counts in; a bar with rate and time left on a terminal, plain lines or lines of JSON in a log.

The rate counts only what this run did, so a resumed job tells the truth about its speed.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.text import Text

from detector.text import printable

__all__ = [
    "Advance",
    "JsonProgress",
    "LogProgress",
    "PlainProgress",
    "Progress",
    "RichProgress",
    "SilentProgress",
    "make_progress",
]

Advance = Callable[[int], None]


class Progress(Protocol):
    """What stages report to. Names of files may stand in titles and notes: they are escaped here."""

    def task(self, title: str, total: int, done: int = 0, unit: str = "images") -> AbstractContextManager[Advance]:
        """Open a task; calling what it yields with n counts n more `unit`."""

    def note(self, text: str) -> None:
        """A line the user should see."""


class SilentProgress:
    """Says nothing: for tests and for use as a library."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        yield lambda count: None

    def note(self, text: str) -> None:
        return None


class LogProgress(SilentProgress):
    """Notes go to the log: for use as a library."""

    def note(self, text: str) -> None:
        logging.getLogger("heatward").warning("%s", printable(text, None))


class PlainProgress:
    """A line when a task starts, every `interval_s` seconds, and when it ends."""

    def __init__(self, stream: TextIO | None = None, interval_s: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.interval_s = interval_s

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        started = last = time.monotonic()
        count = done

        def tell() -> None:
            self._counted(title, count, total, unit, count - done, time.monotonic() - started)

        def advance(more: int) -> None:
            nonlocal count, last
            count += more
            if time.monotonic() - last >= self.interval_s and count < total:
                last = time.monotonic()
                tell()

        yield advance
        self._counted(title, count, total, unit, count - done, time.monotonic() - started, ended=True)

    def _counted(
        self, title: str, count: int, total: int, unit: str, new: int, elapsed_s: float, *, ended: bool = False
    ) -> None:
        rate = new / elapsed_s if elapsed_s > 0 else 0.0
        left = f", {duration((total - count) / rate)} left" if rate > 0 and count < total else ""
        took = f", {duration(elapsed_s)}" if ended else ""
        self.note(f"{title}: {count}/{total} {unit}, {rate:.1f}/s{left}{took}")

    def note(self, text: str) -> None:
        print(printable(text, None), file=self.stream, flush=True)


class JsonProgress(PlainProgress):
    """The same as lines of JSON, for what reads a job's log."""

    def _counted(
        self, title: str, count: int, total: int, unit: str, new: int, elapsed_s: float, *, ended: bool = False
    ) -> None:
        self._line(task=title, done=count, total=total, unit=unit, elapsed_s=round(elapsed_s, 3), ended=ended)

    def note(self, text: str) -> None:
        self._line(note=text)

    def _line(self, **fields: str | float | bool) -> None:
        time_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"time": time_utc, **fields}), file=self.stream, flush=True)


class _RateColumn(ProgressColumn):
    """Units a second since this run began."""

    def render(self, task: BarTask) -> Text:
        new = task.completed - task.fields["already"]
        rate = new / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.1f} {task.fields['unit']}/s", style="progress.data.speed")


class RichProgress:
    """Bars on a terminal. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    @contextmanager
    def task(self, title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
        identity = self.bars.add_task(printable(title, None), total=total, completed=done, unit=unit, already=done)
        yield lambda count: self.bars.advance(identity, count)

    def note(self, text: str) -> None:
        self.bars.console.print(printable(text, None), highlight=False, markup=False, emoji=False)


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def make_progress(stream: TextIO | None = None, *, as_json: bool = False) -> Iterator[Progress]:
    """Bars when the stream is a terminal; otherwise plain lines, or lines of JSON, which all jobs write."""
    stream = stream or sys.stderr
    if stream.isatty():
        with RichProgress(Console(file=stream)) as progress:
            yield progress
    else:
        yield JsonProgress(stream) if as_json else PlainProgress(stream)

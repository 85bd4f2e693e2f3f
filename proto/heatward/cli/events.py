"""`heatward events verify`: files of events go in, oldest first; whether their chain is whole comes out.

An event names its number (`metadata.sequence`) and the sha256 of the line before it (`unmapped.chain.previous`; 64
zeros for the first). `FILE.head`, where it stands beside the last file, says which event was the last: lines that were
cut off at the end are missed by it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser
from heatward.cli.output import complain, path_text, write

__all__ = ["events"]

NAME = "heatward events verify"
FIRST = "0" * 64
SHOWN = 10
"""Faults that are named."""


def events(argv: list[str]) -> int:
    parser = Parser(prog="heatward events", description="Checks the events that a server wrote (its setting `events`).")
    parser.add_argument("action", choices=["verify"], help="whether the chain of events is whole (events_chain)")
    parser.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="files of events, the oldest first; .gz, too"
    )
    arguments = parser.parse_args(argv)
    try:
        chain = _Chain(_head(arguments.files[-1]))
        for path in arguments.files:
            for number, line in enumerate(_lines(path), 1):
                chain.add(line, f"{path_text(path)}, line {number}")
        chain.end(path_text(arguments.files[-1]))
    except (OSError, EOFError, zlib.error) as error:  # the last two of a damaged .gz
        complain(NAME, f"cannot be read: {error}")
        return ExitCode.MISTAKE
    for fault in chain.faults[:SHOWN]:
        complain(NAME, fault)
    if len(chain.faults) > SHOWN:
        complain(NAME, f"… {len(chain.faults)} faults in all")
    write(chain.line())
    return ExitCode.FAILED if chain.faults else ExitCode.OK


@dataclass
class _Chain:
    """What was read so far."""

    head: tuple[int, str] | None
    """Number and digest of the last event, as the server says."""
    count: int = 0
    first: int = 0
    last: int = 0
    digest: str = FIRST
    faults: list[str] = field(default_factory=list)

    def add(self, line: bytes, place: str) -> None:
        digest = hashlib.sha256(line).hexdigest()
        try:
            event: Any = json.loads(line)
            number, previous = int(event["metadata"]["sequence"]), event["unmapped"]["chain"]["previous"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self.faults.append(f"{place}: no chained event: it was damaged, or events_chain was off")
            self.digest = digest
            return
        if self.count:
            if previous != self.digest:
                self.faults.append(f"{place}: does not follow the line before: one was changed, added or removed")
            elif number != self.last + 1:
                self.faults.append(f"{place}: event {number} follows event {self.last}")
        elif (number == 1) != (previous == FIRST):
            self.faults.append(f"{place}: event {number} names {previous} as the one before")
        else:
            self.first = number
        self.count, self.last, self.digest = self.count + 1, number, digest
        if self.head is not None and self.head[0] == number and self.head[1] != digest:
            self.faults.append(f"{place}: event {number} is not the one that was written")

    def end(self, place: str) -> None:
        """No line comes any more."""
        if self.head is not None and self.head[0] > self.last:
            known = self.head[0]
            self.faults.append(f"{place}: ends with event {self.last}, but {known} was written: lines are missing")

    def line(self) -> str:
        if not self.count:
            return "no chained event"
        since = "" if self.first <= 1 else f", after {self.first - 1} in older files"
        state = f"broken in {len(self.faults)} places" if self.faults else "unbroken"
        return f"{self.count} events{since}: {state}; the last is {self.last}, sha256 {self.digest}"


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
        for line in opened:
            yield line.rstrip(b"\r\n")


def _head(path: Path) -> tuple[int, str] | None:
    """Number and digest of the last event; None where the server's note is not there.

    Raises:
        OSError: It cannot be read, or says something else.
    """
    note = path.with_name(f"{path.name}.head")
    try:
        kept = json.loads(note.read_bytes())
        return int(kept["sequence"]), str(kept["sha256"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise OSError(
            f"{path_text(note)} does not say where the chain ends: put the server's own back, or move it away to check "
            "the lines alone"
        ) from None

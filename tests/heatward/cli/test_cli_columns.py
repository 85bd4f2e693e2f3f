"""Rows of a table: drawn for a person at a terminal, plain for everyone else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from heatward import Failure
from heatward.cli.columns import Columns, open_console
from heatward.cli.table import answer_columns, table_line
from rich.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def sit_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_person_at_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    sit_at_a_terminal(monkeypatch)
    console = open_console()
    assert console is not None
    assert "\x1b[1;31mATTACKED" in Columns((8,), console=console).row(("ATTACKED",), ("bold red",))


@pytest.mark.parametrize("why", ["a pipe", "NO_COLOR", "TERM", "no rich", "closed"])
def test_everyone_else_gets_plain_text(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sit_at_a_terminal(monkeypatch)
    if why == "a pipe":
        monkeypatch.setattr(sys, "stdout", io.StringIO())
    elif why == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    elif why == "TERM":
        monkeypatch.setenv("TERM", "dumb")
    elif why == "no rich":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    else:
        monkeypatch.setattr(sys, "stdout", None)
    console = open_console()
    assert console is None
    assert Columns((4, 8), right=(1,), console=console).row(("a", "b"), ("bold red",)) == "a            b"


@pytest.mark.parametrize("width", [30, 60, 200])
def test_nothing_is_cut_and_no_line_is_wider_than_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    path = Path("folder/" + "x" * 90 + ".png")
    columns = answer_columns([path], console)
    lines = table_line(path, Failure("INTERNAL", "words " * 20), columns).split("\n")
    assert max(map(len, lines)) <= width
    name = next(end for end in range(width) if all(line[end : end + 2].isspace() for line in lines))
    assert "".join(line[:name].strip() for line in lines) == str(path)
    assert "".join(lines).count("words") == 20

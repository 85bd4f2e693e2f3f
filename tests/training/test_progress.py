"""What stages say of files reaches the terminal and the log as text, whatever the files are called."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from training.progress import LogProgress, PlainProgress, RichProgress

NAMES = ["[red]x.png", "[/]", "[/nothing].png", "a\x1b[2K\nfake: 9/9", ":smile:.png", "caf\udce9.png"]
SHOWN = ["[red]x.png", "[/]", "[/nothing].png", "a\\x1b[2K\\nfake: 9/9", ":smile:.png", "caf\\xe9.png"]


@pytest.mark.parametrize(("name", "shown"), list(zip(NAMES, SHOWN, strict=True)))
def test_names_are_neither_markup_nor_commands(name: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    console = Console(file=terminal, width=200, color_system=None)
    with RichProgress(console) as bars:
        for progress in (PlainProgress(plain), bars, LogProgress()):
            progress.note(f"left out {name}")
            with progress.task(f"look at {name}", total=1) as advance:
                advance(1)
    with caplog.at_level(logging.WARNING):
        assert f"left out {shown}" in caplog.text
    for written in (plain.getvalue(), terminal.getvalue()):
        assert f"left out {shown}\n" in written and f"look at {shown}" in written and "\x1b" not in written

"""Whoever reads of a benchmark can run it: documents name modules that exist, and every command is in the table."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)
NAMED = re.compile(r"python -m (benchmarks(?:\.[a-z_0-9]+)+)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_benchmarks_and_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if find_spec(name) is None] == []
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_is_in_the_table_and_its_help_says_how_to_start_it(command: str) -> None:
    assert f"`python -m {command}`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    source = (ROOT / command.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert f"    python -m {command}" in source

"""Documents name files, headings and benchmarks that exist, and every benchmark is in the table with its command."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "deploy", "detector", "docs", "examples", "forensics", "proto", "server", "tests", "training")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *(path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.md")))]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)
NAMED = re.compile(r"python -m ((?:benchmarks|examples)(?:\.[a-z_0-9]+)+)")
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)(?: [^`]*)?`")


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a page in its links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_benchmarks_and_files_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if find_spec(name) is None] == []
    if document.name != "CHANGELOG.md":  # it names what is gone, too
        assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []
    for link, anchor in LINK.findall(text):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_is_in_the_table_and_its_help_says_how_to_start_it(command: str) -> None:
    assert f"`python -m {command}`" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    source = (ROOT / command.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert f"    python -m {command}" in source


def test_the_walks_name_files_that_exist() -> None:
    walks = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    exist = {path.name for name in FOLDERS for path in (ROOT / name).rglob("*.py")}
    named = set(re.findall(r"\w+\.py", walks))
    assert named
    assert named - exist == set()

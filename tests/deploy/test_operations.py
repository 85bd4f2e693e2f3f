"""docs/operations.md names files, values, build arguments and targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

import dockerfile
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"\b(?:tests/)?deploy/[\w./-]*\w", TEXT))
    assert len(named) > 8
    for path in sorted(named):
        assert (ROOT / path).exists(), path


def test_every_target_and_build_argument_exists() -> None:
    stages = dockerfile.read()
    for target in re.findall(r"--target ([\w-]+)", TEXT):
        assert target in stages
    arguments = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M))
    table = re.findall(r"^\| `([A-Z_]+)`(?:, `([A-Z_]+)`)? \|", TEXT, re.M)
    described = {name for row in table for name in row if name}
    assert described == arguments - {"CYCLONEDX"}


def test_every_value_that_it_names_exists() -> None:
    values = yaml.safe_load((ROOT / "deploy/helm/heatward/values.yaml").read_text(encoding="utf-8"))
    objects = TEXT[TEXT.index("| object | what it does | values |") :].split("\n\n")[0]
    named = [name for row in objects.splitlines()[2:] for name in re.findall(r"`([\w.]+)`", row.rsplit(" | ", 1)[1])]
    assert {"replicas", "networkPolicy", "retrain"} <= set(named)
    for name in [*named, *re.findall(r"`((?:bundle|tls|settings|autoscaling)\.\w+)`", TEXT)]:
        top, _, below = name.partition(".")
        assert top in values, name
        assert top == "settings" or not below or below in values[top], name

"""Prometheus' own checker reads the alerts, and they fire when they should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")


def promtool(*words: str | Path) -> str:
    done = subprocess.run([str(PROMTOOL), *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_rules() -> None:
    assert "rules found" in promtool("check", "rules", RULES)


def test_alerts_fire_where_they_should_and_nowhere_else(tmp_path: Path) -> None:
    played = Path(__file__).with_name("alerts.yml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yml").write_text(played.replace("RULES", str(RULES)))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "alerts.yml")

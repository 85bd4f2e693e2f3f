"""The Prefect flow takes a night in which the champion stays for a success, and a wrong setting for a failure."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FLOW = Path(__file__).parents[2] / "deploy" / "prefect" / "nightly.py"
JOB = """#!/bin/sh
echo '{"note": "working"}' >&2
echo '{"report": "r.html", "comparison": {"promoted": false, "reasons": ["nothing is new"]}}'
echo "$@" > words
exit CODE
"""


@pytest.mark.parametrize(("code", "ends", "said"), [(3, 0, "stays: nothing is new"), (2, 1, "ended with 2")])
def test_the_exit_code_of_the_job_is_the_state_of_the_flow(tmp_path: Path, code: int, ends: int, said: str) -> None:
    if importlib.util.find_spec("prefect") is None:
        pytest.skip("prefect is not installed")
    command = tmp_path / "heatward"
    command.write_text(JOB.replace("CODE", str(code)))
    command.chmod(0o755)
    environment = {
        "PATH": str(Path(shutil.which("sh") or "/bin/sh").parent),
        "HEATWARD": str(command),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    }
    words = [sys.executable, str(FLOW), "store", "detector.toml", "--records", "recorded", "--once"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == ends, done.stderr
    assert said in done.stderr + done.stdout and '{"note": "working"}' in done.stderr + done.stdout
    told = (tmp_path / "words").read_text()
    assert told == "retrain --champion store --config detector.toml --records recorded --json\n"

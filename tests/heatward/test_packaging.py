"""What a pipeline installs: the generated code is current, and the wheel is the thin client and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import heatward
import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
HEAVY = ("torch", "numpy", "PIL", "detector", "server", "training", "pydantic")
SERVER_ONLY = ("grpc_health", "grpc_reflection", "grpc_status", "grpc_tools")  # grpc itself loads them where it can


def test_generated_code_is_what_the_contracts_say(tmp_path: Path) -> None:
    assert find_spec("grpc_tools"), 'pip install -c constraints.txt -e ".[dev]"'
    subprocess.run([sys.executable, PROTO / "generate.py", tmp_path], check=True)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*")}
    assert made == {
        path.relative_to(PROTO) for path in (PROTO / "heatward").rglob("*_pb2*.py*") if path.suffix != ".pyc"
    }
    for name in made:
        assert (tmp_path / name).read_text() == (PROTO / name).read_text(), f"{name} is stale: run `make protos`"


def test_importing_heatward_loads_nothing_heavy() -> None:
    script = f"import sys, heatward, heatward.cli; print([m for m in {HEAVY} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PROTO)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert heatward.__version__ == project["version"]


def test_everything_exported_exists() -> None:
    assert all(hasattr(heatward, name) for name in heatward.__all__)
    assert list(heatward.__all__) == sorted(heatward.__all__)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(next(built))


def test_the_wheel_holds_only_heatward(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"heatward", f"heatward-{heatward.__version__}.dist-info"}
    contracts = ("v1/detection.proto", "v1/detection_pb2.pyi", "inference/grpc_service.proto")
    assert {"heatward/py.typed", *(f"heatward/{name}" for name in contracts)} <= set(names)


def test_the_wheel_alone_is_enough_for_a_client(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import heatward.cli; print(heatward.__file__); "
    script += "sys.exit(heatward.cli.main(['serve']))"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY + SERVER_ONLY})); "
    ended = subprocess.run([sys.executable, "-P", "-c", blocked + script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.startswith(str(tmp_path))
    assert ended.returncode == 2
    assert "install heatward from a checkout" in ended.stderr

"""`heatward keygen`, `sign` and `verify`, as a person or a pipeline calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from small_bundles import save_small

from server.signing import keygen, sign, verify

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_small(tmp_path / "my.heatward")
    return tmp_path / "my.heatward"


def test_from_a_new_key_to_a_verified_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    key, public = str(tmp_path / "my.key"), str(tmp_path / "my.key.pub")
    assert keygen([key]) == 0
    made = capsys.readouterr().out
    assert verify([str(bundle), "--key", public]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert sign([str(bundle), "--key", key, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle"] == str(bundle) and f"key {told['key']}" in made and "PRIVATE" not in made
    assert verify([str(bundle), "--key", public, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert verify([str(bundle), "--key", public]) == 0
    assert f"signed by the key {told['key']}" in capsys.readouterr().out


def test_a_key_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert keygen([str(tmp_path / "k")]) == 0
    before = (tmp_path / "k").read_bytes()
    assert keygen([str(tmp_path / "k")]) == 2
    assert "is there already" in capsys.readouterr().err and (tmp_path / "k").read_bytes() == before
    assert keygen([str(tmp_path / "none" / "k")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_no_name_of_a_key(name: str, capsys: pytest.CaptureFixture[str]):
    assert keygen([name]) == 2
    assert "say what the private key is to be called" in capsys.readouterr().err


def test_half_a_pair_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    opened = os.open

    def full(path: str, *more: int) -> int:
        if str(path).endswith(".pub"):
            raise OSError(28, "No space left on device", str(path))
        return opened(path, *more)

    monkeypatch.setattr("detector.keys.os.open", full)
    assert keygen([str(tmp_path / "k")]) == 1
    assert f"{tmp_path}/k.pub: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_refused_with_1_and_a_wrong_file_with_2(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("one", "two"):
        assert keygen([str(tmp_path / name)]) == 0
    assert sign([str(bundle), "--key", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert verify([str(bundle), "--key", str(tmp_path / "two.pub")]) == 1
    assert "signed by the key" in capsys.readouterr().err
    both = ["--key", str(tmp_path / "two.pub"), "--key", str(tmp_path / "one.pub")]
    assert verify([str(bundle), *both]) == 0
    assert verify([str(bundle), "--key", str(tmp_path / "one")]) == 2
    assert "heatward verify: --key: " in capsys.readouterr().err
    assert sign([str(bundle), "--key", str(tmp_path / "one.pub")]) == 2
    assert sign([str(tmp_path / "none.heatward"), "--key", str(tmp_path / "one")]) == 1
    assert "There is no bundle" in capsys.readouterr().err


def test_a_key_that_others_may_read_signs_with_a_warning(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert keygen([str(tmp_path / "k")]) == 0
    (tmp_path / "k").chmod(0o644)
    assert sign([str(bundle), "--key", str(tmp_path / "k")]) == 0
    assert "warning: " in (said := capsys.readouterr().err) and "chmod 600" in said


def test_a_key_costs_no_torch(tmp_path: Path):
    code = (
        "import sys; from server import signing; signing.keygen([sys.argv[1]]);"
        "assert signing.sign(['a.heatward', '--key', sys.argv[1] + '.pub']) == 2; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "k")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_commands_are_found_by_their_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, function in (("keygen", keygen), ("sign", sign), ("verify", verify)):
        module, _, attribute = project["entry-points"]["heatward.commands"][name].partition(":")
        assert getattr(import_module(module), attribute) is function

"""The command `heatward review`: what it refuses before it listens, and what its help costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from forensics.review.app import main

ROOT = Path(__file__).parents[3]


def test_its_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pyarrow", "starlette", "uvicorn", "jinja2", "pydantic")
    script = (
        "import sys\nfrom forensics.review.app import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "usage: heatward review" in ended.stdout and ended.stdout.rstrip().endswith("[]")


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main([str(tmp_path)]) == 2
    assert "pip install -e '.[review]'" in capsys.readouterr().err


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is no folder of records"),
        (["--host", "0.0.0.0", "."], "--host 0.0.0.0: others reach this address: give --token-file, too"),
        (["--host", "review.example", "."], "give --token-file, too"),
        (["--token-file", "absent", "."], "--token-file absent: cannot be read"),
        (["--token-file", "short", "."], "--token-file short, line 2: expected `name token`"),
        (["--token-file", "empty", "."], "--token-file empty holds no token"),
        (["--host", "::", "--token-file", "tokens", "."], "--host ::: say by which name browsers call this machine"),
        (["--bundle", "absent", "."], "absent"),
        (["--port", "PORT", "."], "cannot listen: Address already in use"),
        (["--port", "x", "."], "'x' is not a port from 0 to 65535"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_port: int, capsys
) -> None:
    pytest.importorskip("uvicorn", reason="the extra `review` is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("# who\nmara secret\n")
    (tmp_path / "tokens").write_text(f"mara {'secret' * 4}\n")
    (tmp_path / "empty").write_text("# nobody\n")
    code: object
    try:
        code = main([word.replace("PORT", str(taken_port)) for word in words])
    except SystemExit as ended:
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1 and "secret" not in err

"""A mistake in a call is answered in one line, by name, and before gRPC is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import heatward
import pytest
from heatward import cli


def code_of(*words: str) -> int:
    try:
        return cli.main(words)
    except SystemExit as stopped:  # argparse
        return int(str(stopped.code))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("detect", "x", "--fpr", "0"), "argument --fpr: '0' is not a rate between 0 and 1"),
        (("detect", "x", "--fpr", "1"), "argument --fpr: '1' is not a rate"),
        (("detect", "x", "--fpr", "nan"), "argument --fpr: 'nan' is not a rate"),
        (("detect", "x", "--fpr", "1%"), "argument --fpr: '1%' is not a rate"),
        (("detect", "x", "--timeout", "nan"), "argument --timeout: 'nan' is not a number of seconds above 0"),
        (("detect", "x", "--timeout", "inf"), "argument --timeout: 'inf' is not a number of seconds"),
        (("health", "--timeout", "-1"), "argument --timeout: '-1' is not a number of seconds"),
        (("inspect", "x", "--timeout", "soon"), "argument --timeout: 'soon' is not a number of seconds"),
        (("detect", "x", "--in-flight", "0"), "argument --in-flight: '0' is not a whole number, at least 1"),
        (("detect", "x", "--in-flight", "many"), "argument --in-flight: 'many' is not a whole number"),
        (("detect", "x", "--top-k", "-1"), "argument --top-k: '-1' is not a whole number"),
        (("detect", "x", "--top-k", "9" * 30), "argument --top-k: "),
        (("detect", "x", "--address", ""), "argument --address: an address is host:port, e.g. '127.0.0.1:50051'"),
        (("health", "--address", "http://a:1"), "argument --address: an address is host:port, e.g. 'a:1'"),
        (("detect", "--jsn", "x"), "there is no option '--jsn'; did you mean '--json'?"),
        (("detect", "--time-out=3", "x"), "there is no option '--time-out'; did you mean '--timeout'?"),
        (("detect", "x", "--\x1b[2Ktypo"), "there is no option '--\\x1b[2Ktypo'"),
        (("detect", "x", "--" + "y" * 10**6), "there is no option '--yyy"),
        (("detect",), "the following arguments are required: PATH"),
        (("detect", ""), "an empty path: no such file or folder"),
        (("inspect", ""), "'': no such file, nor an address HOST:PORT"),
        (("tarin",), "there is no command 'tarin'; did you mean 'train'?"),
        (("--tarin",), "there is no command '--tarin'; did you mean 'train'?"),
        (("qqq",), "there is no command 'qqq'; there are demo, explain, train"),
        (("d\x1bm" * 10**6,), "there is no command "),
    ],
)
def test_a_wrong_call_is_answered_in_one_line_that_names_the_option(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 1500
    assert complaint in err and err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "words",
    [
        "detect --typo",
        "detect nowhere.png",
        "detect x --fpr 0",
        "detect --help",
        "inspect --typo",
        "inspect nowhere",
        "health --typo",
        "tarin",
        "--typo",
        "--help",
        "version",
    ],
)
def test_grpc_is_not_imported_before_the_command_line_is_right(words: str) -> None:
    script = (
        "import sys\nfrom heatward import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'grpc', 'google', 'torch', 'numpy', 'PIL'}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(heatward.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", script, *words.split()], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_a_bundle_is_inspected_without_grpc(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "heatward-bundle"}')
    script = (
        f"import sys; from heatward import cli; cli.main(['inspect', {str(tmp_path)!r}]); print('grpc' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(heatward.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False"


def test_the_client_is_there_when_it_is_asked_for() -> None:
    script = (
        "import heatward; assert 'Client' in dir(heatward)\n"
        "print(heatward.Client.__name__, heatward.errors.__name__, hasattr(heatward, 'Typo'))\n"
        "from heatward import *; print(Failure.__name__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(heatward.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "Client heatward.errors False\nFailure\n"


def test_a_file_name_that_looks_like_an_option_goes_behind_two_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("detect", "--address", "127.0.0.1:1", "--timeout", "2", "--", "--photo.png") == 2
    assert "--photo.png: no such file or folder" in capsys.readouterr().err

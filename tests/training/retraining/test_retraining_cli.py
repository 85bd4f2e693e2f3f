"""The commands on a store answer wrong words in one line, without torch; and what their jobs print is for machines."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest
from small_bundles import save_small

from detector.bundle.folder import Champion, write_champion
from training.cli import print_tables
from training.progress import JsonProgress
from training.retraining import cli

NOW = datetime(2026, 11, 29, tzinfo=UTC)
RUN = """
import json, sys
from forensics.report import app
from training.retraining import adapt_cli, cli
try:
    code = getattr({"retrain": app, "adapt": adapt_cli}.get(sys.argv[1], cli), sys.argv[1])(sys.argv[2:])
except SystemExit as ended:
    code = ended.code
heavy = {"torch", "torchvision", "torchattacks", "matplotlib", "numpy", "PIL", "pyarrow"}
print(json.dumps([code, sorted(heavy & set(sys.modules))]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("retrain", "--help"), 0, "usage: heatward retrain"),
        (("recalibrate", "--help"), 0, "usage: heatward recalibrate"),
        (("rollback", "--help"), 0, "usage: heatward rollback"),
        (("adapt", "--help"), 0, "usage: heatward adapt"),
        (("adapt", "a.heatward", "--out", "b.heatward"), 2, "say what is new"),
        (("adapt", "a.heatward", "--weights", "b"), 2, "say where the adapted bundle goes"),
        (("adapt", "a.heatward", "--fraction", "0.1", "--fit-images", "3"), 2, "not allowed with"),
        (("adapt", "none.heatward", "--weights", "b", "--out", "c.heatward"), 2, "there is no such file or folder"),
        (("history", "--help"), 0, "usage: heatward history"),
        (("retrain", "--config", "a.toml"), 2, "required: --champion"),
        (("retrain", "--champion", "a", "--tolerence", "1"), 2, "did you mean '--tolerance'"),
        (("retrain", "--champion", "a", "--rate", "2"), 2, "is not a rate between 0 and 1"),
        (("recalibrate", "a", "--rate", "0.1"), 2, "one of the arguments --clean --records is required"),
        (("recalibrate", "none.heatward", "--clean", "b"), 2, "there is no such store or bundle"),
        (("recalibrate", __file__, "--clean", "b"), 2, "say where the one calibrated anew goes"),
        (("recalibrate", __file__, "--clean", "b", "--out", f"{__file__}/c"), 2, "cannot be written: File exists"),
    ],
)
def test_a_wrong_word_costs_no_torch(words: tuple[str, ...], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, timeout=120)
    *_, last = done.stderr.splitlines()
    assert json.loads(last) == [code, []] and said in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_every_command_of_the_project_can_be_imported() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    commands = project["project"]["entry-points"]["heatward.commands"]
    assert {"retrain", "recalibrate", "adapt", "rollback", "history"} <= commands.keys()
    for name in ("retrain", "recalibrate", "adapt", "rollback", "history"):
        module, _, function = commands[name].partition(":")
        assert callable(getattr(import_module(module), function))


def test_a_store_is_shown_and_rolled_back_by_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = save_small(tmp_path / "a.heatward", "a")
    assert cli.history([str(tmp_path)]) == 0
    assert "0 lines" in capsys.readouterr().out
    assert cli.rollback([str(tmp_path)]) == 1
    assert "had no champion before this one: name a bundle with --to" in capsys.readouterr().err
    assert cli.rollback([str(tmp_path), "--to", first[:16], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == first
    write_champion(tmp_path, Champion(bundle="a.heatward", digest=first, since=NOW, why="[red]\x1b[2K[/]"))
    assert cli.history([str(tmp_path)]) == 0
    assert "[red]\\x1b[2K[/]" in capsys.readouterr().out
    assert cli.rollback([str(tmp_path), "--to", "zzz"]) == 2
    assert "there are a.heatward" in capsys.readouterr().err


def test_a_name_that_is_no_store_is_said_and_makes_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (cli.rollback, cli.history):
        assert command([str(tmp_path / "none")]) == 2
        assert "none is no store: give a folder of this machine" in capsys.readouterr().err
        assert command(["s3://bucket/store"]) == 2
        assert "s3://bucket/store is no store" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_store_with_a_damaged_pointer_shows_what_can_serve_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = save_small(tmp_path / "a.heatward", "a")
    assert cli.rollback([str(tmp_path), "--to", "a"]) == 0
    (tmp_path / "champion.json").write_text("{")
    capsys.readouterr()
    assert cli.history([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert first[:16] in shown.out and "champion.json is no pointer to a bundle" in shown.err


def test_tables_that_nobody_reads_end_as_any_output_does() -> None:
    here, there = os.pipe()
    os.close(here)
    with pytest.raises(BrokenPipeError), os.fdopen(there, "w") as stream:
        print_tables([], "nobody reads this", stream)


def test_progress_is_a_line_of_json_for_each_thing() -> None:
    stream = io.StringIO()
    progress = JsonProgress(stream, interval_s=0)
    progress.note("left out a\x1b[2K\nb")
    with progress.task("attack fit/pgd", total=3) as advance:
        advance(1)
        advance(2)
    note, one, last = map(json.loads, stream.getvalue().splitlines())
    assert note["note"] == "left out a\x1b[2K\nb" and note["time"].endswith("+00:00")
    assert (one["task"], one["done"], one["total"], one["ended"]) == ("attack fit/pgd", 1, 3, False)
    assert (last["done"], last["ended"]) == (3, True)

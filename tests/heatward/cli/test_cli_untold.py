"""What `heatward detect` prints of verdicts that the server does not tell, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_servicer import FakeServer
from heatward import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"attacked")
    (tmp_path / "b.png").write_bytes(b"image")
    return tmp_path


def detect(server: FakeServer, folder: Path, *words: str) -> int:
    return cli.main(["detect", str(folder), "--address", server.address, *words])


def test_told_nothing_no_image_is_called_clean(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.disclosure = "none"
    assert detect(server, folder, "--exit-code") == 2
    out, err = capsys.readouterr()
    _, *rows, _, totals = out.splitlines()
    assert [row.split()[1:4] for row in rows] == [["not", "told", "-"]] * 2 and "clean" not in out
    assert totals == "2 images: 0 attacked, 2 not told"
    assert "does not tell you the verdicts of 2 images" in err
    assert detect(server, folder, "--json") == 2
    assert {json.loads(line)["attacked"] for line in capsys.readouterr().out.splitlines()} == {None}


def test_told_the_verdict_alone_its_numbers_are_dashes(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.disclosure = "verdict"
    assert detect(server, folder, "--exit-code") == 1
    _, *rows, _, _ = capsys.readouterr().out.splitlines()
    assert [row.split()[1:3] for row in rows] == [["ATTACKED", "-"], ["clean", "-"]]


@pytest.mark.parametrize("words", [("--look-for-patches",), ("--max-error-rate", "0.1")])
def test_what_a_server_would_not_tell_is_not_said_to_be_missing(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    server.detector.disclosure = "verdict"
    assert detect(server, folder, *words) == 2
    assert f"argument {words[0]}: the server would not tell you: ask its operator" in capsys.readouterr().err


def test_without_p_values_all_images_cannot_decide_together(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.disclosure = "verdict"
    assert detect(server, folder, "--false-discovery-rate", "0.05", "--json") == 2
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["attacked"] for row in rows] == [True, False] and "discovery" not in rows[0]
    assert "does not tell you p-values: each image decided for itself" in err

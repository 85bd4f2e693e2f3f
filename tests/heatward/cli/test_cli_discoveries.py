"""`heatward detect --false-discovery-rate`: all images decide together, and it is said where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_servicer import FakeServer
from heatward import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image that is attacked, four that are clean, and one that is none."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"image")
    (tmp_path / "a.png").write_bytes(b"attacked")
    (tmp_path / "b.png").write_bytes(b"bad")
    return tmp_path


def detect(server: FakeServer, folder: Path, *words: str) -> int:
    return cli.main(["detect", str(folder), "--address", server.address, *words])


def test_all_images_decide_together(server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(server, folder, "--false-discovery-rate", "0.05") == 2  # one has no verdict
    _, *rows, _, totals = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows] == ["clean"] * 4 + ["ATTACKED", "failed"]
    assert totals == "6 images: 1 attacked (at a false discovery rate of 5 %), 1 failed"


def test_a_discovery_is_not_what_an_image_alone_is(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.png").unlink()
    assert detect(server, folder, "--false-discovery-rate", "0.001", "--json", "--exit-code") == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["attacked"] for row in rows] == [False] * 4 + [True]
    assert not any(row["discovery"] for row in rows)
    assert "none is called attacked: with p-values from 0.0005 it would be at least 3 of 5 images together" in err
    assert detect(server, folder, "--false-discovery-rate", "0.01", "--json", "--exit-code") == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["discovery"] is True and err == ""


def test_heatmaps_are_saved_and_rows_stay_in_the_order_of_the_files(
    server: FakeServer, folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.order = 3
    maps = tmp_path_factory.mktemp("maps")
    detect(server, folder, "--false-discovery-rate", "0.05", "--save-heatmaps", str(maps), "--json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png", "a.png", "b.png"]
    assert Path(rows[0]["heatmap_file"]).is_file() and "discovery" not in rows[-1]


def test_one_rate_or_the_other(server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        detect(server, folder, "--fpr", "0.01", "--false-discovery-rate", "0.05")
    assert "not allowed with argument" in capsys.readouterr().err

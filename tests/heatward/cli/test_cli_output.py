"""What the commands print stays readable and harmless, whatever file names, labels and servers say."""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from command import run
from fake_servicer import BAD_IMAGE, INFO, FakeServer
from google.rpc import status_pb2
from heatward import cli
from heatward.cli.output import json_text
from heatward.cli.table import answer_columns, json_line, table_head, table_line
from heatward.client.values import Failure, Label, Timings, Verdict
from heatward.errors import Violation
from heatward.v1 import detection_pb2 as pb

BAD_NAME = b"b\xe9.png"
STEERING = "\x1b[2K\r\n\u202e\x9b2K"


def verdict(label: str = "dog", **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "attacked": True,
        "p_value": 0.0005,
        "attack_score": 9.5,
        "false_positive_rate": 0.01,
        "predicted": Label(1, label, 0.75),
        "top": (Label(1, label, 0.75),),
        "recovered": (Label(0, label, 0.9),),
        "corrected": Label(0, label, 0.9),
        "timings": Timings(0, 0, 0, 0, 1),
        "detector_version": "fake-1",
    }
    return Verdict(**(fields | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (b"a.png", BAD_NAME, "c_é_猫.png".encode(), b"z.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"image")
    return tmp_path


LOCALES = [
    {"PYTHONIOENCODING": "utf-8:strict"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("variables", LOCALES)
def test_names_that_the_output_cannot_hold_are_escaped_and_the_run_goes_on(
    variables: dict[str, str], server: FakeServer, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    maps = tmp_path_factory.mktemp("maps")
    words = ("detect", ".", "--address", server.address)
    code, out, err = run(*words, variables=variables, cwd=folder)
    assert (code, err) == (0, b"")
    names = [line.split()[0] for line in out.splitlines()[1:5]]
    assert (names[0], names[1], names[3]) == (b"a.png", b"b\\xe9.png", b"z.png")

    code, out, err = run(*words, "--json", "--save-heatmaps", str(maps), variables=variables, cwd=folder)
    assert (code, err) == (0, b"")
    rows = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    assert [row["path"] for row in rows] == ["a.png", "b\\xe9.png", "c_é_猫.png", "z.png"]
    assert base64.b64decode(rows[1]["path_base64"]) == BAD_NAME
    assert "path_base64" not in rows[2]
    assert b"b\xe9.png.heatmap.png" in os.listdir(os.fsencode(maps))


def test_messages_name_such_files_too(tmp_path: Path) -> None:
    for words in (("detect",), ("inspect",)):
        code, out, err = run(*words, os.fsencode(tmp_path) + b"/b\xe9\x1b[2K\n.png")
        assert (code, out, err.count(b"\n")) == (2, b"", 1)
        assert b"\x1b" not in err and err.startswith(b"heatward " + words[0].encode())


def test_neither_names_nor_labels_nor_messages_steer_the_terminal(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"a{STEERING}.png").write_bytes(b"image")
    (tmp_path / "b.png").write_bytes(b"bad")
    answer = server.detector._answer

    def hostile(request: pb.DetectRequest) -> pb.DetectResult:
        result = answer(request)
        result.verdict.predicted.name = STEERING
        if request.image.encoded == b"bad":
            bad = status_pb2.Status(code=BAD_IMAGE.code, message=f"no{STEERING}image")
            result = pb.DetectResult(request_id=request.request_id, status=bad)
        return result

    monkeypatch.setattr(server.detector, "_answer", hostile)
    assert cli.main(["detect", str(tmp_path), "--address", server.address]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5  # head, two rows, totals
    assert all(line.isprintable() for line in out.split("\n") + err.split("\n"))
    assert "\\x1b[2K\\r\\n\\u202e" in out and "no\\x1b[2K" in out


def test_an_error_of_the_server_does_not_steer_the_terminal(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    server.detector.status = status_pb2.Status(code=3, message=f"x{STEERING}y" * 50)
    for words in (["detect", str(tmp_path), "--address", server.address], ["inspect", server.address]):
        assert cli.main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and all(line.isprintable() and len(line) < 10_000 for line in err.split("\n"))
        assert "INVALID_ARGUMENT" in err


def test_inspect_of_a_server_does_not_steer_the_terminal(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = pb.DetectorInfo.FromString(INFO.SerializeToString())
    hostile.name = hostile.classifier.classes[0] = hostile.measured[0].attack = STEERING
    monkeypatch.setattr("fake_servicer.INFO", hostile)
    assert cli.main(["inspect", server.address]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n")) and out.count("\\x1b[2K") == 4
    assert cli.main(["inspect", server.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == STEERING


def columns(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in ("W", "F")) for c in text)


@pytest.mark.parametrize("name", ["a.png", "猫と犬.png", "e\u0301te\u0301.png", "犬" * 40 + ".png", "x" * 90 + ".png"])
@pytest.mark.parametrize("label", ["dog", "犬", "ス" * 30, "\x1b" * 30, ""])
def test_the_columns_of_the_table_stand_below_each_other(name: str, label: str) -> None:
    table = answer_columns([Path(name), Path("b.png")])
    head, row = table_head(table), table_line(Path(name), verdict(label), table)
    for title, cell in (("verdict", "ATTACKED"), ("recovered", "")):
        place = head.index(title)
        assert columns(row[: row.index("ATTACKED")]) == head.index("verdict") if cell else columns(row) > place
    before, _, recovered = row.rpartition("  ")
    assert columns(before) + 2 == head.index("recovered") or before.endswith(" ")
    assert recovered.endswith("90%")


def test_json_is_ascii_and_has_no_nan() -> None:
    line = json_line(Path("猫.png"), verdict("犬", p_value=float("nan"), attack_score=float("inf")), None)
    assert line.isascii()
    row = json.loads(line, parse_constant=pytest.fail)
    assert (row["path"], row["p_value"], row["attack_score"]) == ("猫.png", None, None)
    assert row["predicted"]["name"] == "犬"
    failure = Failure("INTERNAL", "a\udce9", (Violation("image", STEERING),))
    error = json.loads(json_line(Path("a.png"), failure, None))["error"]
    assert error["message"] == "a\\udce9" and error["violations"][0]["description"] == STEERING
    assert json.loads(json_text({1: [float("-inf"), {"\ud800": 1}]})) == {"1": [None, {"\\ud800": 1}]}


@pytest.mark.parametrize("words", [("--help",), ("version",), ("detect",), ("detect", "--json"), ("detect", "--help")])
def test_a_full_disk_is_an_error(words: tuple[str, ...], server: FakeServer, folder: Path) -> None:
    if words[0] == "detect" and "--help" not in words:
        words = (*words, str(folder), "--address", server.address)
    with open("/dev/full", "wb") as full:
        code, _, err = run(*words, stdout=full)
    assert (code, err) == (2, b"heatward: standard output cannot be written: No space left on device\n")


def test_a_full_standard_error_changes_nothing(server: FakeServer, folder: Path) -> None:
    (folder / "x.tif").write_bytes(b"left out")
    with open("/dev/full", "wb") as full:
        code, out, _ = run("detect", str(folder), "--address", server.address, stderr=full)
    assert code == 0 and b"4 images" in out


def test_with_standard_error_closed_json_stays_json(server: FakeServer, folder: Path) -> None:
    (folder / "x.tif").write_bytes(b"left out")
    words = ("detect", str(folder), "--address", server.address, "--json")
    code, out, _ = run(*words, stderr=None, closed=2)
    assert code == 0 and len([json.loads(line) for line in out.splitlines()]) == 4


def test_a_closed_standard_output_is_an_error(server: FakeServer, folder: Path) -> None:
    words = ("detect", str(folder), "--address", server.address)
    code, _, err = run(*words, stdout=None, closed=1)
    assert (code, err) == (2, b"heatward: standard output is closed\n")


def test_heatmaps_that_cannot_be_written_do_not_end_the_run(
    server: FakeServer, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    maps = tmp_path_factory.mktemp("maps")
    (maps / "a.png.heatmap.png").mkdir()
    words = ["detect", str(folder), "--address", server.address, "--save-heatmaps", str(maps)]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert "4 images: 0 attacked" in out
    assert "1 heatmap was not written, the first: " in err and "a.png.heatmap.png" in err
    assert (maps / "z.png.heatmap.png").is_file()


def test_of_a_heatmap_that_the_disk_does_not_take_nothing_is_left_and_what_was_there_stays(
    server: FakeServer, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path_factory.mktemp("maps")
    (maps / "z.png.heatmap.png").write_bytes(b"old")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:3])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.main(["detect", str(folder), "--address", server.address, "--save-heatmaps", str(maps)]) == 2
    assert [(path.name, path.read_bytes()) for path in maps.rglob("*.*")] == [("z.png.heatmap.png", b"old")]


def test_a_long_name_still_gets_its_heatmap(server: FakeServer, tmp_path: Path) -> None:
    name = "é" * 125 + ".png"
    (tmp_path / name).write_bytes(b"image")
    words = ["detect", str(tmp_path / name), "--address", server.address, "--save-heatmaps", str(tmp_path / "maps")]
    assert cli.main(words) == 0
    assert len(os.listdir(tmp_path / "maps")) == 1


def test_heatmaps_go_into_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", str(folder), "--save-heatmaps", str(folder / "a.png")]) == 2
    assert "argument --save-heatmaps: heatmaps are written into a folder" in capsys.readouterr().err

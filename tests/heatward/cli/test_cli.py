"""The `heatward` command: what it prints and the codes it exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import heatward
import pytest
from fake_servicer import PNG, FakeServer
from heatward import cli
from heatward.cli import app
from heatward.cli.exit_codes import ExitCode


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"image")
    (folder / "b.JPG").write_bytes(b"attacked")
    (folder / "more" / "a.png").write_bytes(b"image")
    (folder / "notes.txt").write_bytes(b"bad")
    return folder


def test_detect_prints_a_line_for_each_image_of_a_folder(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.order = 3
    assert cli.main(["detect", str(photos), "--address", server.address, "--fpr", "0.02"]) == 0
    head, *rows, _, totals = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "verdict", "p-value", "predicted", "recovered"]
    assert [row.split()[1] for row in rows] == ["clean", "ATTACKED", "clean"]  # in the order of the files
    assert rows[1].endswith("0.0005  dog 75%                     cat 90%")
    assert rows[0].endswith("-")
    assert totals == "3 images: 1 attacked (at a false-positive rate of 2 %)"


def test_detect_says_which_predictions_can_be_relied_on_where_a_rate_is_named(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.error_rate = 0.02
    asked = ["detect", str(photos / "a.png"), "--address", server.address, "--max-error-rate"]
    assert cli.main([*asked, "0.05"]) == 0
    head, row, _, totals = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["error", "rate", "reliable"] and row.split()[-2:] == ["0.0200", "yes"]
    assert totals.endswith(", 0 not to be relied on")
    assert cli.main([*asked, "0.015"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["0.0200", "NO"]
    assert cli.main([*asked, "0.05", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["error_rate"], answer["reliable"]) == (0.02, True)
    assert cli.main([*asked, "0.005"]) == 2
    assert "less than the server can promise, 0.01" in capsys.readouterr().err
    server.detector.error_rate = None
    assert cli.main([*asked, "0.05"]) == 2
    assert "promises no error rate" in capsys.readouterr().err


def test_detect_says_which_predictions_a_patch_made_where_that_is_asked(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.detector.patch_p_value = 0.03
    asked = ["detect", str(photos / "a.png"), "--address", server.address, "--look-for-patches", "--fpr"]
    assert cli.main([*asked, "0.05"]) == 0
    head, row, _, totals = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["masked", "p", "patched"] and row.split()[-2:] == ["0.0300", "YES"]
    assert totals.endswith(", 1 patched")
    assert cli.main([*asked, "0.02"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["0.0300", "no"]
    assert cli.main([*asked, "0.05", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["patch_p_value"], answer["patched"]) == (0.03, True)
    assert [cli.main([*asked, rate, "--exit-code"]) for rate in ("0.05", "0.02")] == [1, 0]
    capsys.readouterr()
    assert cli.main(["detect", str(photos / "a.png"), "--address", server.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patched"] is None
    server.detector.patch_p_value = None
    assert cli.main([*asked, "0.05"]) == 2
    assert "not made to look for patches" in capsys.readouterr().err


def test_detect_fails_with_2_when_an_image_has_no_verdict_and_still_answers_the_others(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [photos / "notes.txt", photos / "a.png"]
    assert cli.main(["detect", *map(str, files), "--address", server.address, "--json"]) == 2
    bad, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad["path"] == str(files[0])
    assert bad["error"]["code"] == "INVALID_ARGUMENT"
    assert bad["error"]["violations"] == [{"field": "image.encoded", "description": "not an image file"}]
    assert good["path"] == str(files[1]) and good["attacked"] is False
    assert good["predicted"] == {"index": 1, "name": "dog", "probability": 0.75}


def test_detect_saves_heatmaps_beside_one_another(server: FakeServer, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    arguments = [str(photos), str(photos / "a.png"), "--address", server.address, "--save-heatmaps", str(out)]
    assert cli.main(["detect", *arguments]) == 0
    saved = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert saved == ["a.png-2.heatmap.png", "a.png.heatmap.png", "b.JPG.heatmap.png", "more/a.png.heatmap.png"]
    assert (out / "a.png.heatmap.png").read_bytes() == PNG


@pytest.mark.parametrize(
    "arguments",
    [["nowhere.png"], ["."], ["a.png", "--fpr", "x"], ["a.png", "--timeout", "0"]],
)
def test_detect_says_what_is_wrong_with_a_call(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["detect", *arguments])
    except SystemExit as stopped:  # argparse
        code = int(str(stopped.code))
    assert code == 2
    assert "heatward detect:" in capsys.readouterr().err


def test_detect_without_a_server_says_how_to_start_one(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", str(photos), "--address", "127.0.0.1:1"]) == 2
    assert (
        "nothing listens at 127.0.0.1:1 (connection refused): start a server with `heatward serve`"
        in capsys.readouterr().err
    )


def test_the_token_comes_from_the_environment(
    server: FakeServer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEATWARD_TOKEN", "secret")
    assert cli.main(["detect", str(photos), "--address", server.address]) == 0
    assert server.detector.metadata["authorization"] == "Bearer secret"


def test_health_exits_0_1_and_1(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.set_serving(True)
    assert cli.main(["health", "--address", server.address]) == 0
    server.set_serving(False)
    assert cli.main(["health", "--address", server.address]) == 1
    assert cli.main(["health", "--address", "127.0.0.1:1", "--timeout", "2"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][:2] == ["SERVING", "NOT_SERVING"]


def test_health_asks_where_the_server_of_the_same_container_listens(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEATWARD_SERVE_PORT", server.address.rpartition(":")[2])
    assert cli.main(["health"]) == 0
    assert cli.main(["health", "--address", "127.0.0.1:1", "--timeout", "2"]) == 1
    monkeypatch.setenv("HEATWARD_SERVE_PORT", "tcp://10.0.0.7:50051")  # of a Service
    with pytest.raises(SystemExit):
        cli.main(["health", "--help"])
    assert "(127.0.0.1:50051)" in capsys.readouterr().out


def test_inspect_shows_a_server(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", server.address]) == 0
    out = capsys.readouterr().out
    for fact in (
        "torchvision:resnet18",
        "cat, dog, ship",
        "1999 clean images; smallest rate 0.05 %",
        "0.991",
    ):
        assert fact in out
    assert cli.main(["inspect", server.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"][0]["recovery"] is None


MANIFEST = {
    "format": "heatward-bundle",
    "schema_version": 1,
    "heatward_version": "0.1.0",
    "files": {"network.safetensors": "00ff"},
    "classifier": {"source": "timm:vit", "input_size": [32, 32], "classes": [f"c{i}" for i in range(100)]},
    "fingerprint": "abcd",
    "families": ["iterative"],
    "operating_points": {"0.01": 2.5},
    "measured": {"pgd-8": {"auroc": 0.98765, "mean": None}},
    "provenance": {"seed": 0},
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_inspect_reads_a_bundles_manifest_and_nothing_else(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "my.heatward"
    if kind == "folder":
        bundle.mkdir()
        (bundle / "manifest.json").write_text(json.dumps(MANIFEST))
    else:
        with zipfile.ZipFile(bundle, "w") as archive:
            archive.writestr("manifest.json", json.dumps(MANIFEST))
    assert cli.main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    for fact in ("timm:vit", "c0, c1", "(100 in all)", "32 × 32 pixels", "1 %", "0.9877", "iterative"):
        assert fact in out
    assert cli.main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == MANIFEST


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "without manifest.json"),
        ({"manifest.json": "{"}, "not JSON"),
        ({"manifest.json": "[" * 100_000}, "not JSON"),
        ({"manifest.json": '{"format": "other"}'}, "not a heatward bundle"),
        ({"manifest.json": " " * (16 * 2**20 + 1)}, "larger than"),
        (None, "neither a folder nor a readable zip file"),
    ],
)
def test_inspect_says_why_a_file_is_no_bundle(
    content: dict[str, str] | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "x.heatward"
    bundle.write_bytes(b"no zip")
    if content is not None:
        with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    assert cli.main(["inspect", str(bundle)]) == 2
    assert complaint in capsys.readouterr().err


def test_inspect_of_neither_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "typo.heatward"]) == 2
    assert "no such file, nor an address HOST:PORT" in capsys.readouterr().err


def test_help_lists_every_command_and_an_unknown_one_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in ("demo", "train", "evaluate", "serve", "detect", "inspect", "health", "version"):
        assert f"\n  {name} " in listed
    assert cli.main([]) == 2
    assert cli.main(["detekt"]) == 2
    assert "no command 'detekt'; did you mean 'detect'?" in capsys.readouterr().err


def test_the_exit_codes_are_one_table_in_the_help_and_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == ExitCode.OK
    helped = capsys.readouterr().out.splitlines()
    documented = (Path(__file__).parents[3] / "docs/client.md").read_text().splitlines()
    for code in ExitCode:
        assert [code.meaning in line for line in helped if line.startswith(f"  {code:d} ")] == [True]
        assert f"| {code:d} | {code.meaning} |" in documented


def test_version_names_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"heatward {heatward.__version__} (grpcio ")


def plug_in(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    points = EntryPoints([EntryPoint("serve", value, app.GROUP)])
    monkeypatch.setattr(app, "entry_points", lambda **chosen: points.select(**chosen))


def test_a_plug_in_gets_its_arguments_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def record(argv: list[str]) -> int:
        calls.append(argv)
        return 7

    monkeypatch.setattr(app, "_recorder", record, raising=False)
    plug_in(monkeypatch, "heatward.cli.app:_recorder")
    assert cli.main(["serve", "--help", "x"]) == 7
    assert calls == [["--help", "x"]]


def test_a_plug_in_that_cannot_be_imported_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in(monkeypatch, "no_such_module.cli:serve")
    assert cli.main(["serve"]) == 2
    error = capsys.readouterr().err
    assert "'no_such_module'" in error and 'pip install -e ".[serve,train]"' in error


@pytest.mark.parametrize("command", ["--help", "detect"])
def test_a_closed_pipe_ends_quietly(command: str, server: FakeServer, photos: Path) -> None:
    arguments = [command] if command == "--help" else ["detect", str(photos), "--address", server.address]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(Path(heatward.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-m", "heatward", *arguments], env=environment, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")

"""What `heatward detect` says of a run that ends early, of a server that it cannot use, and by its exit code."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from command import run, start
from fake_servicer import INFO, FakeServer
from google.rpc import status_pb2
from heatward import cli
from heatward.cli.connect import explain
from heatward.cli.files import ImageFile
from heatward.cli.judging import _Rows
from heatward.client.values import Failure
from heatward.errors import DetectionError, Violation
from heatward.v1 import detection_pb2 as pb

SECRET = "do-not-print-me-0123456789"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, content in (("a", b"image"), ("b", b"attacked"), ("c", b"slow"), ("d", b"image")):
        (tmp_path / f"{name}.png").write_bytes(content)
    return tmp_path


LEFT = "2 of 4 answered; 2 images without a verdict, the first: {}/c.png\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stream_that_the_server_cuts_leaves_totals_and_what_is_left(
    as_json: bool,
    server: FakeServer,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = server.detector._answer

    def cut(request: pb.DetectRequest) -> pb.DetectResult:
        if request.image.encoded == b"slow":
            raise RuntimeError("the server goes down")
        return answer(request)

    monkeypatch.setattr(server.detector, "_answer", cut)
    words = ["detect", str(photos), "--address", server.address, *(["--json"] if as_json else [])]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    if as_json:
        assert len(out.splitlines()) == 2
    else:
        assert out.endswith("\n\n2 images: 1 attacked (at a false-positive rate of 1 %)\n")
    cause, left = err.splitlines(keepends=True)
    assert cause.startswith(f"heatward detect: {server.address}: UNKNOWN: ")
    assert left == f"heatward detect: {LEFT.format(photos)}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_leaves_totals_and_what_is_left(
    number: signal.Signals, code: int, server: FakeServer, photos: Path
) -> None:
    with start("detect", str(photos), "--address", server.address, "--timeout", "60") as process:
        lines = [process.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert b"b.png  ATTACKED" in lines[2]
    assert out == b"\n2 images: 1 attacked (at a false-positive rate of 1 %)\n"
    assert (process.returncode, err.decode()) == (code, f"heatward detect: {LEFT.format(photos)}")


def test_answers_behind_a_missing_one_are_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _Rows([ImageFile(Path(name), Path(name)) for name in ("a", "b", "c")], None, as_json=False)
    for position in (2, 0):
        rows.add(position, Failure("INTERNAL", "x"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("a ")
    rows.finish()
    assert capsys.readouterr().out == "c      failed    INTERNAL: x\n\n2 images: 0 attacked, 2 failed\n"
    assert rows.missing_line() == "2 of 3 answered; 1 image without a verdict, the first: b"


@pytest.mark.parametrize(("names", "code"), [(("a",), 0), (("a", "b"), 1), (("a", "b", "gone"), 2), (("a", "gone"), 2)])
def test_exit_code_says_whether_something_was_attacked(
    names: tuple[str, ...], code: int, server: FakeServer, photos: Path
) -> None:
    folder = photos / "some"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.png").symlink_to(photos / f"{name}.png")
    words = ["detect", str(folder), "--address", server.address]
    assert cli.main([*words, "--exit-code"]) == code
    assert cli.main(words) == (2 if code == 2 else 0)


@pytest.mark.parametrize(
    ("address", "code", "message", "said"),
    [
        ("10.0.0.1:1", "UNAVAILABLE", "the server drains", "10.0.0.1:1: UNAVAILABLE: the server drains"),
        ("guard:1", "UNAVAILABLE", "nothing listens at guard:1", "UNAVAILABLE: nothing listens at guard:1"),
        ("a:1", "UNAUTHENTICATED", "no", "the server asks for a token: set the environment variable HEATWARD_TOKEN"),
    ],
)
def test_the_cause_of_an_error_is_named(address: str, code: str, message: str, said: str) -> None:
    text = explain(DetectionError(code, message), address)
    assert said in text and message in text
    assert text.count(address) == 1


def test_what_the_server_does_not_have_is_said_once(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = pb.DetectorInfo.FromString(INFO.SerializeToString())
    bare.ClearField("heatmap_formats")
    monkeypatch.setattr("fake_servicer.INFO", bare)
    words = ["detect", str(photos), "--address", server.address]
    assert cli.main([*words, "--fpr", "0.0001"]) == 2
    assert cli.main([*words, "--save-heatmaps", str(photos / "maps")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and server.detector.requests == []
    assert err.splitlines() == [
        "heatward detect: argument --fpr: 0.0001 is less than the server can promise, 0.0005",
        "heatward detect: argument --save-heatmaps: the server makes no heatmaps",
    ]


def test_an_error_names_the_fields_on_the_same_line() -> None:
    error = DetectionError("INVALID_ARGUMENT", "two\nlines", (Violation("options.top_k", "at most 5"),))
    assert explain(error, "a:1") == "a:1: INVALID_ARGUMENT: two lines; options.top_k: at most 5"


@pytest.mark.parametrize("written", [SECRET + "\n", f"\ufeff{SECRET}\r\n", f" \t{SECRET} \n\n"])
@pytest.mark.parametrize("command", ["detect", "health", "inspect"])
def test_a_token_is_cut_at_its_ends(
    command: str, written: str, server: FakeServer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "c.png").unlink()
    words = {"detect": [str(photos), "--address"], "health": ["--address"], "inspect": []}[command]
    monkeypatch.setenv("HEATWARD_TOKEN", written)
    assert cli.main([command, *words, server.address]) == 0
    if command != "health":
        assert server.detector.metadata["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("written", [f"{SECRET}\nx", f"{SECRET}é", f"{SECRET}\x01x", f"\udcff{SECRET}"])
@pytest.mark.parametrize("command", ["detect", "health", "inspect"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    command: str, written: str, server: FakeServer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"detect": [str(photos), "--address"], "health": ["--address"], "inspect": []}[command]
    code, out, err = run(command, *words, server.address, variables={"HEATWARD_TOKEN": written})
    assert code == (1 if command == "health" else 2)
    assert SECRET.encode() not in out + err
    assert b"environment variable HEATWARD_TOKEN: the token holds a" in out + err
    assert b"(not shown here), which cannot be sent" in out + err
    assert server.detector.calls == 0


@pytest.mark.parametrize(("written", "code"), [("", 0), (" \n", 2)])
def test_an_empty_token_is_none_and_a_blank_one_a_mistake(
    written: str, code: int, server: FakeServer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEATWARD_TOKEN", written)
    assert cli.main(["detect", str(photos / "a.png"), "--address", server.address]) == code
    assert "authorization" not in server.detector.metadata


def test_a_token_that_the_server_refuses_is_not_asked_for_again(
    server: FakeServer, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEATWARD_TOKEN", SECRET)
    code, _ = grpc.StatusCode.UNAUTHENTICATED.value
    server.detector.status = status_pb2.Status(code=code, message="wrong token")
    assert cli.main(["detect", str(photos), "--address", server.address]) == 2
    err = capsys.readouterr().err
    assert "wrong token: the server does not take the token in the environment variable HEATWARD_TOKEN" in err
    assert SECRET not in err

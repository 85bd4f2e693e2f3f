"""Which files `heatward detect` sends, and what becomes of those that it cannot send."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import run
from fake_servicer import INFO, FakeServer
from heatward import cli
from heatward.cli.congestion import CongestionWindow
from heatward.cli.files import STANDARD_INPUT, ImageFile, find_images
from heatward.cli.reader import Reader, largest_image
from heatward.client.messages import detector_info
from heatward.client.values import Failure
from heatward.v1 import detection_pb2 as pb


def make(folder: Path, *names: str, content: bytes = b"image") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def found(*paths: Path, below: Path) -> list[str]:
    return [str(file.path.relative_to(below)) for file in find_images(map(str, paths)).files]


def test_images_of_every_spelling_are_found_below_a_folder(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jpeg", "c.jfif", "d.jpe", "e.jif", "f.Png", "g.webp", "folder.png/h.png"]
    make(tmp_path, *names)
    assert found(tmp_path, below=tmp_path) == sorted(names)


def test_hidden_and_system_files_are_left_out_below_a_folder_and_used_where_they_are_named(tmp_path: Path) -> None:
    hidden = [
        "._a.png",
        ".hidden.jpg",
        ".ipynb_checkpoints/a-checkpoint.png",
        ".Trash/a.png",
        "sub/.git/a.png",
        "__MACOSX/a.png",
        "@eaDir/a.png",
        "$RECYCLE.BIN/a.png",
        "System Volume Information/a.png",
        "Thumbs.db",
        "Desktop.ini",
    ]
    make(tmp_path, "a.png", *hidden)
    all_of_it = find_images([str(tmp_path)])
    assert [file.path.name for file in all_of_it.files] == ["a.png"]
    assert all_of_it.left_out_line() == ""
    for name in hidden:
        assert found(tmp_path / name, below=tmp_path) == [name]
    assert found(tmp_path / ".Trash", below=tmp_path) == [".Trash/a.png"]


def test_other_files_are_counted_and_do_not_change_the_exit_code(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a.png", "b.tif", "c.TIF", "d.bmp", "more/e.heic")
    said = "4 files left out: 2 .tif, 1 .bmp, 1 .heic: heatward reads JPEG, PNG and WebP"
    for words in ([], ["--json"]):
        assert cli.main(["detect", str(tmp_path), "--address", server.address, *words]) == 0
        out, err = capsys.readouterr()
        assert err == f"heatward detect: {said}\n"
        assert "tif" not in out
    (tmp_path / "a.png").unlink()
    assert cli.main(["detect", str(tmp_path), "--address", server.address]) == 2
    assert capsys.readouterr().err == f"heatward detect: no image in the folders named; {said}\n"


def test_many_kinds_of_other_files_make_a_short_line(tmp_path: Path) -> None:
    make(tmp_path, "Makefile", "x.\x1b[2K", "x." + "y" * 100, *(f"x.{kind}" for kind in "abcdefgh"))
    line = find_images([str(tmp_path)]).left_out_line()
    assert line.startswith("11 files left out: 2 without a known ending, ")
    assert line.endswith("4 of other kinds: heatward reads JPEG, PNG and WebP") and "\x1b" not in line


def test_linked_folders_are_followed_once_each_and_loops_end(tmp_path: Path) -> None:
    photos, other = make(tmp_path / "photos", "z/a.png"), make(tmp_path / "other", "b.png", "deep/c.png")
    (photos / "a_link_to_z").symlink_to(photos / "z")
    (photos / "linked").symlink_to(other)
    (photos / "linked_again").symlink_to(other)
    (photos / "loop").symlink_to(photos)
    (other / "back").symlink_to(photos)
    (photos / "itself").symlink_to(photos / "itself")
    (photos / "file.png").symlink_to(other / "b.png")
    assert found(photos, below=photos) == ["file.png", "linked/b.png", "linked/deep/c.png", "z/a.png"]


def test_links_to_nothing_are_said(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    assert cli.main(["detect", str(tmp_path), "--address", server.address]) == 2
    out, err = capsys.readouterr()
    assert "gone.png" in out and "failed    NOT_FOUND: cannot be read: No such file or directory" in out
    assert "1 file left out: 1 broken link" in err
    assert cli.main(["detect", str(tmp_path / "gone.png"), "--address", server.address]) == 2
    assert "gone.png: no such file or folder (a link to nothing)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_looked_into_is_a_failure(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.png", "closed/b.png")
    scandir = os.scandir

    def closed(folder: Path) -> Any:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    assert cli.main(["detect", str(tmp_path), "--address", server.address, "--json"]) == 2
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert good["attacked"] is False
    assert bad["path"] == str(tmp_path / "closed")
    assert bad["error"]["code"] == "PERMISSION_DENIED"
    assert bad["error"]["message"] == "cannot be read: Permission denied"


def test_what_is_named_twice_is_judged_twice(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    assert found(tmp_path, tmp_path / "a.png", below=tmp_path) == ["a.png", "b.png", "a.png"]


@pytest.fixture
def small_limits() -> Iterator[None]:
    before = pb.DetectorInfo.FromString(INFO.SerializeToString())
    INFO.limits.max_image_bytes = 1000
    yield
    INFO.CopyFrom(before)


@pytest.mark.usefixtures("small_limits")
def test_a_file_over_the_limits_fails_alone_and_is_not_sent(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, "a.png", "c.png")
    make(tmp_path, "b.png", content=bytes(1001))
    with (tmp_path / "huge.png").open("wb") as sparse:
        sparse.truncate(50 * 2**30)
    assert cli.main(["detect", str(tmp_path), "--address", server.address]) == 2
    rows = capsys.readouterr().out.splitlines()[1:5]
    assert [row.split()[1] for row in rows] == ["clean", "failed", "clean", "failed"]
    assert "INVALID_ARGUMENT: the file is larger than the server takes, 1000 bytes" in rows[1]
    assert [request.image.encoded for request in server.detector.requests] == [b"image", b"image"]


def test_the_largest_image_fits_into_a_message_too() -> None:
    info = pb.DetectorInfo.FromString(INFO.SerializeToString())
    for image, message, largest in ((1000, 10**6, 1000), (10**6, 5000, 5000 - 256), (0, 0, 64 * 2**20)):
        info.limits.max_image_bytes, info.limits.max_message_bytes = image, message
        assert largest_image(detector_info(info).limits) == largest


def read(*paths: Path, limit: int = 100, piped: bytes = b"") -> tuple[list[bytes], list[tuple[int, Failure]]]:
    window = CongestionWindow(len(paths), len(paths), patience_s=1.0)
    reader, sent = Reader([ImageFile(path, path) for path in paths], limit, window, piped), []
    for data in reader:
        sent.append(data)
        window.settle(reader.sent[-1], Failure("INTERNAL", "answered"))
    return sent, list(reader.unreadable)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes: opening it would wait for ever
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    make(tmp_path, "a.png", "folder.png/a.png")
    sent, failed = read(*(tmp_path / name for name in ("pipe.png", "zero.png", "folder.png", "a.png")))
    assert sent == [b"image"]
    assert [(position, failure.code) for position, failure in failed] == [(n, "INVALID_ARGUMENT") for n in range(3)]
    assert all("is no regular file" in failure.message for _, failure in failed)


def test_a_file_that_grows_while_it_is_read_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.png", content=bytes(1000))
    state = os.stat(tmp_path / "a.png")
    small = os.stat_result((*state[:6], 10, *state[7:]))
    monkeypatch.setattr(Path, "stat", lambda path: small)
    sent, ((_, failure),) = read(tmp_path / "a.png", limit=100)
    assert sent == [] and "larger than the server takes" in failure.message


def test_a_file_that_vanishes_or_is_closed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.png", "closed.png")
    opened = Path.open

    def refuse(path: Path, *mode: Any) -> Any:
        if path.name == "closed.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *mode)

    monkeypatch.setattr(Path, "open", refuse)
    sent, failed = read(tmp_path / "gone.png", tmp_path / "closed.png", tmp_path / "a.png")
    assert sent == [b"image"]
    assert [failure for _, failure in failed] == [
        Failure("NOT_FOUND", "cannot be read: No such file or directory"),
        Failure("PERMISSION_DENIED", "cannot be read: Permission denied"),
    ]


def test_a_dash_is_standard_input(server: FakeServer, tmp_path: Path) -> None:
    make(tmp_path, "a.png", "-", content=b"attacked")
    maps = tmp_path / "maps"
    words = ("detect", "-", "./-", "a.png", "--address", server.address, "--json", "--save-heatmaps", str(maps))
    code, out, err = run(*words, piped=b"image", cwd=tmp_path)
    assert (code, err) == (0, b"")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["path"], row["attacked"]) for row in rows] == [("-", False), ("-", True), ("a.png", True)]
    assert rows[0]["heatmap_file"] == str(maps / "stdin.heatmap.png")


@pytest.mark.usefixtures("small_limits")
def test_standard_input_without_end_is_read_up_to_the_limit(server: FakeServer) -> None:
    with open("/dev/zero", "rb") as endless:
        code, out, _ = run("detect", "-", "--address", server.address, stdin=endless)
    assert code == 2 and b"larger than the server takes" in out
    assert server.detector.requests == []


def test_standard_input_is_named_once() -> None:
    assert find_images(["-"]).files == [STANDARD_INPUT]
    with pytest.raises(ValueError, match="name it once"):
        find_images(["-", "-"])

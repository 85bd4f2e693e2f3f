"""Events on disk: what is written is whole, and a chain tells of every change, through restarts and rotation."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from heatward import cli

from detector.errors import ConfigError
from server.observers.event_file import EventFile


def event(name: str = "") -> dict[str, Any]:
    return {"metadata": {"uid": name}, "unmapped": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def written(path: Path, *batches: int) -> EventFile:
    """A chained file after these batches, closed."""
    file = EventFile(path, chained=True)
    for size in batches:
        file.append([event(str(number)) for number in range(size)])
    file.close()
    return file


def verify(*paths: Path) -> int:
    return cli.main(["events", "verify", *map(str, paths)])


def test_a_chain_goes_on_over_batches_and_restarts(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(path, 2, 1)
    written(path, 2)
    assert verify(path) == 0
    assert "5 events: unbroken; the last is 5, sha256" in capsys.readouterr().out


def test_a_chain_goes_on_in_the_next_file_while_the_server_runs_and_while_it_does_not(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EventFile(path, chained=True)
    file.append([event(), event()])
    first, second = path.with_suffix(".1"), path.with_suffix(".2.gz")
    path.rename(first)
    file.append([event()])
    file.close()
    second.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    written(path, 1)
    assert verify(first, second, path) == 0
    assert "4 events: unbroken" in capsys.readouterr().out
    assert verify(second, path) == 0
    assert "2 events, after 2 in older files: unbroken" in capsys.readouterr().out
    assert verify(second, first, path) == 1


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("kind", ["changed", "removed", "doubled", "swapped"])
def test_any_change_of_a_line_is_found(path: Path, at: int, kind: str) -> None:
    written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    if kind == "changed":
        lines[at] = lines[at].replace(b'"uid":"', b'"uid":"x')
    elif kind == "removed" and at:
        del lines[at]
    elif kind == "doubled":
        lines.insert(at, lines[at])
    else:
        lines[at], lines[at - 1] = lines[at - 1], lines[at]
    path.write_bytes(b"".join(lines))
    assert verify(path) == 1


def test_lines_that_are_missing_at_the_end_are_missed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(path, 3)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path) == 1
    assert "ends with event 2, but 3 was written: lines are missing" in capsys.readouterr().err


def test_what_is_no_chained_event_is_named_by_its_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EventFile(path, chained=False)
    file.append([event()])
    file.close()
    assert verify(path) == 1
    assert "line 1: no chained event" in capsys.readouterr().err
    assert verify(path.with_name("nothing")) == 2


def test_half_a_line_of_a_crash_is_cut_and_the_chain_goes_on(path: Path) -> None:
    written(path, 2)
    with path.open("ab") as opened:
        opened.write(b'{"metadata":{"uid":"ha')
    written(path, 1)
    assert verify(path) == 0
    assert len(path.read_bytes().splitlines()) == 3


def test_events_that_a_crash_left_ahead_of_the_note_count(path: Path) -> None:
    written(path, 1)
    head = path.with_name("events.jsonl.head")
    before = head.read_bytes()
    written(path, 1)
    head.write_bytes(before)
    written(path, 1)
    assert verify(path) == 0


def test_a_full_disk_leaves_nothing_half_written_and_the_chain_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = EventFile(path, chained=True)
    file.append([event()])
    before, write = path.read_bytes(), os.write

    def full(file: int, content: Any) -> int:
        if len(content) <= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, bytes(content[:10]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: full(file, content[:15]))
        with pytest.raises(OSError, match="No space left"):
            file.append([event()])
    assert path.read_bytes() == before
    file.append([event()])
    file.close()
    assert verify(path) == 0


def test_a_full_disk_lets_no_event_be_written_without_its_note(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that stays behind would have the next number given twice, once the file is rotated."""
    file = EventFile(path, chained=True)
    file.append([event()])
    before, opened = path.read_bytes(), Path.open

    def full(self: Path, *words: Any, **named: Any) -> Any:
        if ".head" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            file.append([event()])
    assert path.read_bytes() == before
    file.append([event()])
    file.close()
    assert verify(path) == 0


def test_a_last_line_that_was_changed_while_no_server_ran_is_found(path: Path) -> None:
    """Whatever its digest is then."""
    written(path, 2)
    head = path.with_name("events.jsonl.head")
    lines, note = path.read_bytes(), head.read_bytes()
    for word in b"abcdefghijklmnopqrstuvwxyz":
        path.write_bytes(lines.replace(b'"uid":"1"', b'"uid":"%c"' % word))
        head.write_bytes(note)
        written(path, 1)
        assert verify(path) == 1


def test_a_second_server_is_kept_out(path: Path) -> None:
    file = EventFile(path, chained=True)
    file.append([event()])
    with pytest.raises(BlockingIOError):
        EventFile(path, chained=True).append([event()])
    file.close()
    written(path, 1)


@pytest.mark.parametrize("content", [b"x" * 2**21, b"no line end", b"port = 50051\nthreads = 1"])
def test_a_file_of_something_else_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no file of events"):
        EventFile(path, chained=False).append([event()])
    assert path.read_bytes() == content


def test_zeros_that_a_power_cut_left_are_cut(path: Path) -> None:
    written(path, 1)
    with path.open("ab") as opened:
        opened.write(bytes(100))
    written(path, 1)
    assert verify(path) == 0


def test_a_damaged_note_is_named(path: Path) -> None:
    written(path, 1)
    path.with_name("events.jsonl.head").write_text("{")
    with pytest.raises(ConfigError, match=r"events.jsonl.head does not say where the chain ends"):
        written(path, 1)


@pytest.mark.parametrize("note", [b"{", b"[]", b'{"sequence": 1e999, "sha256": "00"}', None])
def test_a_note_that_says_nothing_does_not_pass_for_none(
    path: Path, note: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that were cut off at the end would not be missed."""
    written(path, 2)
    head = path.with_name("events.jsonl.head")
    head.unlink()
    if note is None:
        head.mkdir()
    else:
        head.write_bytes(note)
    assert verify(path) == 2
    assert "events.jsonl.head" in capsys.readouterr().err


def test_a_damaged_archive_is_named_and_no_number_breaks_the_check(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(path, 200)
    packed = bytearray(gzip.compress(path.read_bytes()))
    archive = path.with_suffix(".gz")
    for at in range(20, len(packed), 97):
        archive.write_bytes(packed[:at] + bytes([packed[at] ^ 255]) + packed[at + 1 :])
        assert verify(archive) in (1, 2)
    archive.write_bytes(gzip.compress(path.read_bytes().replace(b'"sequence":7}', b'"sequence":1e999}')))
    assert verify(archive) == 1
    assert "line 7: no chained event" in capsys.readouterr().err


def test_nobody_else_may_read_them(path: Path) -> None:
    written(path, 1)
    assert path.stat().st_mode & 0o077 == 0


def test_lines_are_json_without_a_line_break_in_them(path: Path) -> None:
    file = EventFile(path, chained=False)
    file.append([event("a\nb\u2028c"), event("ü")])
    file.close()
    content = path.read_bytes()
    assert content.isascii()
    assert [json.loads(line)["metadata"]["uid"] for line in content.splitlines()] == ["a\nb\u2028c", "ü"]
